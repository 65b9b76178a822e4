// The map and the tracks on it: each has a pane of its own, which carries its opacity and its side of the swipe.

// between whole zooms the browser would leave hairlines between tiles
const map = L.map("map", { attributionControl: false, zoomSnap: view.served ? 1 : 0.25, maxZoom: 22, minZoom: 1, worldCopyJump: false, boxZoom: true });
L.control.scale({ imperial: false, maxWidth: 140 }).addTo(map);

view.tracks.forEach((track, i) => {
  track.id = i;
  track.hidden = new Set();
  track.current = track.layers[0];
  track.pane = map.createPane(`track-${i}`);
  track.pane.style.zIndex = 300 + i;
  track.pane.dataset.track = track.title;
  track.pane.style.opacity = track.opacity;
});

function boundsOf(layers) {
  const bounds = L.latLngBounds([]);
  layers.forEach((layer) => bounds.extend(layer.bounds));
  return bounds;
}

function tilesOf(track, layer) {
  const hidden = [...track.hidden].join(",");
  const address = `tiles/${layer.number}/{z}/{x}/{y}.png${hidden ? `?hide=${hidden}` : ""}`;
  const zooms = { minNativeZoom: layer.shallowest, maxNativeZoom: layer.deepest, maxZoom: 22 };
  return L.tileLayer(address, { pane: `track-${track.id}`, bounds: layer.bounds, ...zooms });
}

async function overlayOf(track, layer) {
  const options = { pane: `track-${track.id}`, interactive: false };
  if (view.served) return tilesOf(track, layer);
  if (layer.picture) return (layer.overlay ??= L.imageOverlay(layer.picture, layer.bounds, options));
  const canvas = await paint(track, layer);
  return (layer.overlay ??= new CanvasOverlay(canvas, layer.bounds, options)); // one for one canvas, which is painted again
}

// Show what the track should show now; a call that was overtaken by a later one changes nothing.
async function refresh(track) {
  const turn = (track.turn = (track.turn ?? 0) + 1);
  const overlay = track.visible ? await overlayOf(track, track.current) : null;
  if (turn !== track.turn) return;
  const before = track.overlay;
  track.overlay = overlay;
  if (overlay) overlay.addTo(map);
  if (before && before !== overlay) before.remove();
  track.pane.dataset.shown = overlay ? track.current.name : "";
  smooth();
}

// Pixels stay squares when they are large; imagery and values that are shown smaller than they are may be mixed, classes never.
function smooth() {
  view.tracks.forEach((track) => {
    const element = track.overlay?.getElement?.();
    if (!element || track.current.classes) return;
    element.classList.toggle("shrunk", element.offsetWidth < (element.naturalWidth || element.width));
  });
}
map.on("zoomend", smooth);

function setOpacity(track, opacity) {
  track.opacity = opacity;
  track.pane.style.opacity = opacity;
}
