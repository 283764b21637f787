// A camera that circles a point: angles, distance and target in, one matrix out; mouse, touch and keys move it.

const add = (a, b, s = 1) => [a[0] + s * b[0], a[1] + s * b[1], a[2] + s * b[2]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => { const n = Math.hypot(...a) || 1; return [a[0] / n, a[1] / n, a[2] / n]; };

const FIELD_OF_VIEW = 50 * Math.PI / 180;

function orbitCamera(axes, centre, radius) {
  const [east, north, up] = axes;
  const start = { yaw: -1.05, pitch: 0.62, distance: radius * 2.5, target: centre.slice() };
  const state = { ...start, target: centre.slice() };

  // From the target to the eye.
  function outward() {
    const c = Math.cos(state.pitch), flat = add(east.map((v) => v * Math.cos(state.yaw) * c), north, Math.sin(state.yaw) * c);
    return add(flat, up, Math.sin(state.pitch));
  }

  function basis() {
    const back = unit(outward()), right = unit(cross(up, back));
    return { back, right, above: cross(back, right) };
  }

  return {
    state,
    home() { Object.assign(state, start, { target: centre.slice() }); },
    turn(dx, dy) {
      state.yaw -= dx;
      state.pitch = Math.min(1.5, Math.max(-1.5, state.pitch + dy));
    },
    move(dx, dy) {
      const { right, above } = basis(), scale = 2 * state.distance * Math.tan(FIELD_OF_VIEW / 2);
      state.target = add(add(state.target, right, -dx * scale), above, dy * scale);
    },
    zoom(factor) { state.distance = Math.min(radius * 60, Math.max(radius * 0.02, state.distance * factor)); },
    // Stand where a camera stood and look along its forward axis; roll is given up.
    lookFrom(eye, forward) {
      state.distance = radius * 0.5;
      state.target = add(eye, forward, state.distance);
      state.pitch = Math.min(1.5, Math.max(-1.5, Math.asin(Math.max(-1, Math.min(1, -dot(forward, up))))));
      state.yaw = Math.atan2(-dot(forward, north), -dot(forward, east));
    },
    // Column-major clip_from_world.
    matrix(aspect) {
      const { back, right, above } = basis(), eye = add(state.target, back, state.distance);
      const near = state.distance * 0.01, far = state.distance + radius * 40;
      // A narrow window keeps the horizontal field of a square one.
      const f = Math.min(1, aspect) / Math.tan(FIELD_OF_VIEW / 2), depth = (far + near) / (near - far);
      const rows = [right, above, back].map((axis) => [...axis, -dot(axis, eye)]);
      const clip = [
        rows[0].map((v) => v * f / aspect),
        rows[1].map((v) => v * f),
        rows[2].map((v, k) => v * depth + (k === 3 ? 2 * far * near / (near - far) : 0)),
        rows[2].map((v) => -v),
      ];
      const m = new Float32Array(16);
      for (let r = 0; r < 4; r++) for (let c = 0; c < 4; c++) m[c * 4 + r] = clip[r][c];
      return m;
    },
  };
}

function orbitControls(canvas, camera, changed, { tap, hover, step }) {
  const pointers = new Map();
  let travelled = 0, spread = 0;

  const pinch = () => {
    const [a, b] = [...pointers.values()];
    return Math.hypot(a.x - b.x, a.y - b.y);
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, moves: event.button === 2 || event.shiftKey });
    travelled = pointers.size > 1 ? 100 : 0;
    if (pointers.size === 2) spread = pinch();
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return hover(event);
    const dx = event.clientX - last.x, dy = event.clientY - last.y, side = canvas.clientHeight;
    travelled += Math.abs(dx) + Math.abs(dy);
    last.x = event.clientX;
    last.y = event.clientY;
    if (pointers.size === 2) {
      const now = pinch();
      camera.zoom(spread / (now || 1));
      camera.move(dx / side / 2, dy / side / 2);
      spread = now;
    } else if (last.moves) camera.move(dx / side, dy / side);
    else camera.turn(dx * 3.2 / side, dy * 3.2 / side);
    changed();
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(kind, (event) => {
      if (pointers.delete(event.pointerId) && kind === "pointerup" && travelled < 6) tap(event);
    });
  }
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  // The wheel scrolls the page until the view has been clicked.
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas) return;
    event.preventDefault();
    camera.zoom(Math.exp(event.deltaY * 0.0012));
    changed();
  }, { passive: false });

  const keys = {
    ArrowLeft: (shift) => (shift ? camera.move(0.06, 0) : camera.turn(-0.12, 0)),
    ArrowRight: (shift) => (shift ? camera.move(-0.06, 0) : camera.turn(0.12, 0)),
    ArrowUp: (shift) => (shift ? camera.move(0, 0.06) : camera.turn(0, 0.1)),
    ArrowDown: (shift) => (shift ? camera.move(0, -0.06) : camera.turn(0, -0.1)),
    "+": () => camera.zoom(0.85), "=": () => camera.zoom(0.85), "-": () => camera.zoom(1 / 0.85),
    "0": () => camera.home(),
    ",": () => step(-1), ".": () => step(1), Escape: () => step(0),
  };
  canvas.addEventListener("keydown", (event) => {
    const action = keys[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action(event.shiftKey);
    changed();
  });
}
