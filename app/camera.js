// The dragged head: shows the nearest image that is known, and asks for the exact one, one at a time.
const MAX_YAW = 90, MAX_PITCH = 45, DEGREES_PER_PIXEL = 0.5, ARROW = 5;
const known = new Map();
let yaw = 0, pitch = 0, busy = false, held = null;
const coarse = [];
for (let p = -30; p <= 30; p += 15) for (let y = -60; y <= 60; y += 15) coarse.push([y, p]);
coarse.sort((a, b) => Math.hypot(...a) - Math.hypot(...b));

const identity = () => Number(props.identity) || 0;
const key = (y, p) => `${identity()}/${y}/${p}`;
const limit = (value, most) => Math.max(-most, Math.min(most, value));
const head = () => element.querySelector(".dp-head");

function nearest() {
  let best = null, least = Infinity;
  for (const [name, frame] of known) {
    const [who, y, p] = name.split("/").map(Number);
    const distance = Math.hypot(y - yaw, p - pitch);
    if (who === identity() && distance < least) { best = frame; least = distance; }
  }
  return best;
}

function show() {
  const y = Math.round(yaw), p = Math.round(pitch);
  const frame = known.get(key(y, p)) || nearest();
  const box = head();
  if (!box) return;
  const image = box.querySelector("img");
  if (frame && image.src !== frame) image.src = frame;
  image.hidden = !frame;
  box.dataset.yaw = y;
  box.dataset.pitch = p;
  box.dataset.exact = known.has(key(y, p));
  box.querySelector("output").textContent = `yaw ${y}°, pitch ${p}°`;
}

async function render() {
  if (busy) return;
  const target = [Math.round(yaw), Math.round(pitch)];
  const next = known.has(key(...target)) ? coarse.find((pair) => !known.has(key(...pair))) : target;
  if (!next) return;
  busy = true;
  const name = key(...next);
  try {
    known.set(name, await server.frame([next[0], next[1], identity()]));
  } catch (error) {
    busy = false;
    return;
  }
  busy = false;
  show();
  render();
}

function move(y, p) {
  yaw = limit(y, MAX_YAW);
  pitch = limit(p, MAX_PITCH);
  show();
  render();
}

element.addEventListener("pointerdown", (event) => {
  if (!event.target.closest(".dp-head")) return;
  held = { x: event.clientX, y: event.clientY, yaw, pitch };
  head().setPointerCapture(event.pointerId);
  event.preventDefault();
});
// The head follows the pointer: to the right, it turns to the right, as from a camera that moves to the left.
element.addEventListener("pointermove", (event) => {
  if (!held) return;
  move(held.yaw - (event.clientX - held.x) * DEGREES_PER_PIXEL,
       held.pitch + (event.clientY - held.y) * DEGREES_PER_PIXEL);
});
for (const name of ["pointerup", "pointercancel"]) {
  element.addEventListener(name, () => { held = null; });
}
element.addEventListener("keydown", (event) => {
  const turn = { ArrowLeft: [ARROW, 0], ArrowRight: [-ARROW, 0], ArrowUp: [0, -ARROW], ArrowDown: [0, ARROW] };
  if (!turn[event.key] || !event.target.closest(".dp-head")) return;
  move(yaw + turn[event.key][0], pitch + turn[event.key][1]);
  event.preventDefault();
});
watch("identity", () => { show(); render(); });
show();
render();
