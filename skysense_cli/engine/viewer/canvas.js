// Numbers to pixels: what is embedded is unpacked here, coloured and laid on the map.

const view = JSON.parse(document.getElementById("data").textContent);
const rampColors = Array.from({ length: 256 }, (_, i) => parseInt(view.ramp.slice(6 * i, 6 * i + 6), 16));
const NODATA = { uint8: 255, uint16: 65535 };

// A canvas between two corners of the map, as Leaflet lays a picture there. Both are linear in Web Mercator.
const CanvasOverlay = L.ImageOverlay.extend({
  _initImage() {
    const canvas = (this._image = this._url);
    canvas.classList.add("leaflet-image-layer");
    if (this._zoomAnimated) canvas.classList.add("leaflet-zoom-animated");
  },
});

// The numbers of a layer as a typed array, row by row from the north-west; unpacked once.
async function numbersOf(layer) {
  if (!layer.unpacked) {
    const bytes = Uint8Array.from(atob(layer.numbers), (sign) => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const buffer = await new Response(stream).arrayBuffer();
    layer.unpacked = layer.dtype === "uint8" ? new Uint8Array(buffer) : new Uint16Array(buffer); // little-endian, as browsers' machines are
    layer.numbers = null;
  }
  return layer.unpacked;
}

// Red, green, blue, alpha in memory order for 0xrrggbb.
function pixel(color) {
  return (0xff000000 | ((color & 0xff) << 16) | (color & 0xff00) | (color >> 16)) >>> 0;
}

// For each number that a layer may hold, its pixel; 0 is transparent.
function paletteOf(track, layer) {
  const palette = new Uint32Array(NODATA[layer.dtype] + 1);
  if (layer.classes) {
    layer.classes.forEach((entry, i) => {
      if (!track.hidden.has(entry.code)) palette[i] = pixel(parseInt(entry.color.slice(1), 16));
    });
  } else {
    for (let i = 0; i < NODATA[layer.dtype]; i++) palette[i] = pixel(rampColors[rampPlace(track, layer.first + layer.step * i)]);
  }
  return palette;
}

// Which of the 256 colours a value gets.
function rampPlace(track, value) {
  const share = (value - track.limits[0]) / (track.limits[1] - track.limits[0]);
  return Math.round(255 * Math.min(1, Math.max(0, share)));
}

async function paint(track, layer) {
  const numbers = await numbersOf(layer);
  layer.canvas ??= Object.assign(document.createElement("canvas"), { width: layer.width, height: layer.height });
  const palette = paletteOf(track, layer);
  const image = new ImageData(layer.width, layer.height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = palette[numbers[i]];
  layer.canvas.getContext("2d").putImageData(image, 0, 0);
  return layer.canvas;
}
