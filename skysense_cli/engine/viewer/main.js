// The page comes to life: everything is drawn once, then redrawn where something changed.

function redraw(track) {
  refresh(track).catch(fail);
  drawFacts();
}

function changedTrack(track) {
  redraw(track);
  drawLegend(redraw);
  popup.remove();
}

const fold = document.getElementById("fold");
fold.addEventListener("click", () => {
  const content = document.getElementById("content");
  content.hidden = !content.hidden;
  fold.setAttribute("aria-expanded", String(!content.hidden));
  fold.textContent = content.hidden ? "Show" : "Hide";
  map.invalidateSize();
});

listTracks(changedTrack);
startSwiping();
const series = startTime(changedTrack);
// beside the buttons and above the slider
const free = { paddingTopLeft: [60, 12], paddingBottomRight: [12, series ? 76 : 34] };
map.fitBounds(boundsOf(view.tracks.flatMap((track) => track.layers)), { animate: false, ...free });
drawLegend(redraw);
drawFacts();
Promise.all(view.tracks.map(refresh)).then(() => (document.body.dataset.ready = "yes"), fail);
window.skysense = { map };
