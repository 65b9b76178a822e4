// Series: one slider over all dates; true if there is one. A series without a picture of that day shows its last one before it, or its first.

function startTime(changed) {
  const dates = [...new Set(view.tracks.flatMap((track) => (track.layers.length > 1 ? track.layers.map((layer) => layer.date) : [])))].sort();
  if (dates.length < 2) return false;
  const slider = document.getElementById("date");
  slider.max = dates.length - 1;
  const go = (number) => {
    slider.value = number;
    const date = dates[slider.value];
    document.getElementById("day").textContent = date;
    slider.setAttribute("aria-valuetext", date);
    view.tracks.forEach((track) => {
      if (track.layers.length < 2) return;
      const chosen = track.layers.findLast((layer) => layer.date <= date) ?? track.layers[0];
      if (chosen === track.current) return;
      track.current = chosen;
      changed(track);
    });
  };
  slider.addEventListener("input", () => go(slider.value));
  document.getElementById("before").addEventListener("click", () => go(Number(slider.value) - 1));
  document.getElementById("after").addEventListener("click", () => go(Number(slider.value) + 1));
  document.getElementById("time").hidden = false;
  document.body.classList.add("timed");
  go(dates.length - 1);
  return true;
}
