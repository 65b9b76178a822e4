// The list of layers, the legend and what is said about the maps. Every text goes in as text, never as markup.

function element(name, facts = {}, ...children) {
  const { data, ...properties } = facts;
  const made = Object.assign(document.createElement(name), properties);
  Object.assign(made.dataset, data ?? {});
  made.append(...children);
  return made;
}

const numberText = (value, digits) => value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const hectaresText = (value) => `${numberText(value, value < 10 ? 2 : value < 1000 ? 1 : 0)} ha`;
const MOST_LINES = 500; // of a legend

function valueText(value) {
  const size = Math.abs(value);
  return size && (size >= 1e6 || size < 1e-3) ? value.toExponential(3) : String(Number(value.toPrecision(5)));
}

function listTracks(changed) {
  const list = document.getElementById("layers");
  [...view.tracks].reverse().forEach((track) => {
    const box = element("input", { type: "checkbox", checked: track.visible });
    box.addEventListener("change", () => {
      track.visible = box.checked;
      changed(track);
    });
    const slider = element("input", { type: "range", min: 0, max: 100, value: Math.round(track.opacity * 100) });
    slider.setAttribute("aria-label", `Opacity of ${track.title}`);
    const shown = element("output", {}, `${slider.value} %`);
    slider.addEventListener("input", () => {
      setOpacity(track, slider.value / 100);
      shown.textContent = `${slider.value} %`;
    });
    const what = track.layers.length > 1 ? `${track.what}, ${track.layers.length} dates` : track.what;
    const label = element("label", { className: "layer" }, box, element("span", {}, track.title, " ", element("small", {}, what)));
    list.append(element("li", { data: { track: track.title } }, label, element("div", { className: "opacity" }, "opacity", slider, shown)));
  });
}

function classLine(track, entry, changed) {
  const swatch = element("span", { className: "swatch" });
  swatch.style.background = entry.color;
  const area = element("data", { value: entry.hectares }, hectaresText(entry.hectares));
  const share = element("span", { className: "share" }, `${numberText(entry.share * 100, 1)} %`);
  const line = element("button", { type: "button" }, swatch, element("span", { className: "name" }, entry.name), area, share);
  line.setAttribute("aria-pressed", String(!track.hidden.has(entry.code)));
  line.addEventListener("click", () => {
    if (!track.hidden.delete(entry.code)) track.hidden.add(entry.code);
    line.setAttribute("aria-pressed", String(!track.hidden.has(entry.code)));
    changed(track);
  });
  return element("li", { data: { code: entry.code } }, line);
}

function classList(track, changed) {
  const entries = track.current.classes;
  const most = entries.length > MOST_LINES ? [...entries].sort((a, b) => b.hectares - a.hectares).slice(0, MOST_LINES) : entries;
  const list = element("ul", { className: "classes" }, ...most.map((entry) => classLine(track, entry, changed)));
  if (most.length < entries.length) list.append(element("li", { className: "note" }, `and ${entries.length - most.length} smaller ones`));
  return list;
}

function rampBar(track) {
  const bar = element("div", { className: "ramp" });
  const stops = Array.from({ length: 17 }, (_, i) => `#${rampColors[Math.round(i * 15.9375)].toString(16).padStart(6, "0")}`);
  bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  const ends = element("div", { className: "ends" }, ...track.limits.map((limit) => element("span", {}, valueText(limit))));
  return element("div", {}, bar, ends);
}

function drawLegend(changed) {
  const home = document.getElementById("legend");
  home.replaceChildren();
  [...view.tracks].reverse().forEach((track) => {
    if (!track.visible || track.kind === "image") return;
    const head = element("h3", {}, track.title, " ", element("small", {}, track.current.date || track.what));
    const body = track.current.classes ? classList(track, changed) : rampBar(track);
    const notes = track.current.notes.map((note) => element("p", { className: "note" }, note));
    home.append(element("section", { data: { track: track.title } }, head, body, ...notes));
  });
  if (!home.children.length) home.append(element("p", { className: "note" }, "The layers shown have no legend."));
}

function drawFacts() {
  const home = document.getElementById("facts");
  home.replaceChildren();
  [...view.tracks].reverse().forEach((track) => {
    const lines = track.current.facts.flatMap(([what, value]) => [element("dt", {}, what), element("dd", {}, value)]);
    const notes = track.kind === "image" ? track.current.notes.map((note) => element("p", { className: "note" }, note)) : [];
    home.append(element("h3", {}, track.title), element("dl", {}, ...lines), ...notes);
  });
  home.append(element("p", { className: "note" }, `Made by skysense ${view.version}; drawn with Leaflet ${L.version}. Areas are geodesic, on WGS 84.`));
  const simulated = view.tracks.some((track) => track.layers.some((layer) => layer.simulated));
  const note = document.getElementById("simulated");
  note.hidden = !simulated;
  note.textContent = "Simulated data: no satellite took these images.";
}
