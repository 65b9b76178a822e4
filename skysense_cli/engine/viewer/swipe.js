// A line across the map: the chosen layer is shown on its left only, so that what lies below shows on its right.

const divider = document.getElementById("divider");
map.createPane("divider").append(divider); // above the layers, below the answers
map.getPane("divider").style.zIndex = 640;
L.DomEvent.disableClickPropagation(divider);
const swiping = { on: false, track: null, share: 0.5 };

function clip() {
  const size = map.getSize();
  const [first, last] = [map.containerPointToLayerPoint([0, 0]), map.containerPointToLayerPoint([size.x * swiping.share, size.y])];
  view.tracks.forEach((track) => {
    if (!swiping.on || track !== swiping.track) {
      track.pane.style.clipPath = "";
      return;
    }
    track.pane.style.clipPath = `polygon(${first.x}px ${first.y}px, ${last.x}px ${first.y}px, ${last.x}px ${last.y}px, ${first.x}px ${last.y}px)`;
  });
  divider.hidden = !swiping.on;
  Object.assign(divider.style, { left: `${last.x}px`, top: `${first.y}px`, height: `${size.y}px` });
  divider.setAttribute("aria-valuenow", Math.round(swiping.share * 100));
}

function moveDivider(share) {
  swiping.share = Math.min(1, Math.max(0, share));
  clip();
}

function startSwiping() {
  const box = document.getElementById("swipe");
  const choice = document.getElementById("swiped");
  const above = [...view.tracks].reverse();
  choice.append(...above.map((track) => element("option", { value: track.id }, track.title)));
  document.getElementById("compare").hidden = above.length < 2;
  const choose = () => {
    swiping.track = view.tracks[choice.value];
    clip();
  };
  box.addEventListener("change", () => {
    swiping.on = box.checked;
    if (box.checked) choice.value = (above.find((track) => track.visible) ?? above[0]).id;
    choose();
  });
  choice.addEventListener("change", choose);
  divider.addEventListener("pointerdown", (event) => {
    divider.setPointerCapture(event.pointerId);
    event.preventDefault();
    divider.focus();
  });
  divider.addEventListener("pointermove", (event) => {
    if (!divider.hasPointerCapture(event.pointerId)) return;
    const box = map.getContainer().getBoundingClientRect();
    moveDivider((event.clientX - box.left) / box.width);
  });
  divider.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -0.02, ArrowRight: 0.02, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    moveDivider(swiping.share + steps[event.key]);
  });
  map.on("move zoom zoomend viewreset resize", clip);
}
