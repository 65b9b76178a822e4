// What is at a place: class, value and coordinates, read from the numbers themselves, not from the colours on the screen.

const popup = L.popup({ maxWidth: 380, autoPanPadding: [30, 30] });

// Column and row (with fractions) of a place in an embedded layer; null outside of it.
function pixelOf(layer, latlng) {
  const [left, bottom, right, top] = layer.extent;
  const point = L.CRS.EPSG3857.project(latlng);
  const column = ((point.x - left) / (right - left)) * layer.width;
  const row = ((top - point.y) / (top - bottom)) * layer.height;
  return column >= 0 && row >= 0 && column < layer.width && row < layer.height ? { column, row } : null;
}

// The layer's own x and y there, linear between the four nearest places of its lattice.
function ownCoordinates(layer, place) {
  const { nodes, x, y } = view.coordinates[layer.coordinates];
  const across = (place.column / layer.width) * (nodes - 1);
  const down = (place.row / layer.height) * (nodes - 1);
  const left = Math.min(Math.floor(across), nodes - 2);
  const above = Math.min(Math.floor(down), nodes - 2);
  const [right, low] = [across - left, down - above];
  const at = (numbers) => {
    const first = above * nodes + left;
    const [a, b, c, d] = [0, 1, nodes, nodes + 1].map((step) => numbers[first + step] ?? NaN); // null: the CRS does not reach there
    return (a * (1 - right) + b * right) * (1 - low) + (c * (1 - right) + d * right) * low;
  };
  return { x: at(x), y: at(y) };
}

// { x, y, entry | value | values } at a place; null outside of the layer. entry: null and value: null where there is no data
async function lookUp(track, layer, latlng) {
  if (view.served) {
    const place = latlng.wrap();
    const reply = await fetch(`point/${layer.number}?lon=${place.lng}&lat=${place.lat}`);
    if (!reply.ok) throw new Error(`the server answered ${reply.status}`);
    const found = await reply.json();
    if (!found.inside) return null;
    return layer.classes ? { ...found, entry: layer.classes.find((entry) => entry.code === found.code) ?? null } : found;
  }
  const place = pixelOf(layer, latlng);
  if (!place) return null;
  const own = ownCoordinates(layer, place);
  if (layer.picture) return own;
  const number = (await numbersOf(layer))[Math.floor(place.row) * layer.width + Math.floor(place.column)];
  const empty = number === NODATA[layer.dtype];
  return layer.classes ? { ...own, entry: empty ? null : layer.classes[number] } : { ...own, value: empty ? null : layer.first + layer.step * number };
}

function line(what, content, main = false) {
  return element("tr", { className: main ? "main" : "" }, element("th", { scope: "row" }, what), element("td", {}, ...[content].flat()));
}

function answerLines(track, found) {
  const title = track.layers.length > 1 && track.current.date ? `${track.title}, ${track.current.date}` : track.title;
  if (track.current.classes) {
    if (!found.entry) return [line(title, "no data", true)];
    const mark = element("i");
    mark.style.background = found.entry.color;
    return [line(title, [mark, found.entry.name], true)];
  }
  if (found.values) return found.values.map(([name, value]) => line(`${title}: ${name}`, value === null ? "no data" : valueText(value)));
  return "value" in found ? [line(title, found.value === null ? "no data" : valueText(found.value), true)] : [];
}

// What a person asks for comes first.
const ANSWER_ORDER = ["class", "confidence", "probability", "prototype", "value", "image"];
const rank = (track) => ANSWER_ORDER.findIndex((name) => name === track.what || name === track.kind);
const answering = [...view.tracks].reverse().sort((a, b) => rank(a) - rank(b));

const degrees = (value, positive, negative) => `${Math.abs(value).toFixed(6)}° ${value < 0 ? negative : positive}`;

async function answer(latlng) {
  const asked = (view.asked = (view.asked ?? 0) + 1);
  const table = element("tbody");
  const systems = new Map();
  for (const track of answering) {
    const found = await lookUp(track, track.current, latlng);
    if (!found) continue;
    table.append(...answerLines(track, found));
    if (!systems.has(track.current.crs)) systems.set(track.current.crs, [found, track.current.degrees ? 6 : 1]);
  }
  if (asked !== view.asked) return;
  if (!table.children.length && !systems.size) table.append(line("here", "no layer"));
  const place = latlng.wrap();
  table.append(line("longitude", degrees(place.lng, "E", "W")), line("latitude", degrees(place.lat, "N", "S")));
  systems.forEach(([found, digits], crs) => {
    const known = Number.isFinite(found.x) && Number.isFinite(found.y);
    table.append(line(crs, known ? `${found.x.toFixed(digits)}, ${found.y.toFixed(digits)}` : "not known here"));
  });
  popup.setLatLng(latlng).setContent(element("table", { className: "answer" }, table)).openOn(map);
}

map.on("click", (event) => answer(event.latlng).catch(fail));
map.getContainer().addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target === map.getContainer()) answer(map.getCenter()).catch(fail);
});

const cursor = document.getElementById("cursor");
map.on("mousemove", (event) => {
  const place = event.latlng.wrap();
  cursor.textContent = `${degrees(place.lng, "E", "W")}  ${degrees(place.lat, "N", "S")}`;
});
map.on("mouseout", () => (cursor.textContent = ""));

function fail(error) {
  const note = document.getElementById("failure");
  note.textContent = `This did not work: ${error.message ?? error}`;
  note.hidden = false;
}
