// The page: unpacks the data, builds the layers of the 3-D view, and ties frames together wherever they are drawn.

const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
const floatsOf = (text) => new Float32Array(bytesOf(text));
const rgbOf = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));

const truth = floatsOf(data.truth), answer = floatsOf(data.answer), count = data.frames.length;
const centre = (poses, i) => [poses[12 * i + 9], poses[12 * i + 10], poses[12 * i + 11]];
const column = (poses, i, k) => [poses[12 * i + k], poses[12 * i + 3 + k], poses[12 * i + 6 + k]];
const answered = (i) => !Number.isNaN(answer[12 * i]);

let colouring = "distance", picked = -1, hovered = -1;

function layer(kind, options = {}) {
  return { kind, xyz: new Float32Array(0), rgb: new Uint8Array(0), size: 2, alpha: 1, depth: false, visible: true, version: 0, ...options };
}
function fill(target, xyz, rgb) {
  target.xyz = xyz instanceof Float32Array ? xyz : new Float32Array(xyz);
  target.rgb = rgb instanceof Uint8Array ? rgb : new Uint8Array(rgb);
  target.version += 1;
}

const layers = {
  points: layer("points", { size: 2.2, depth: true }),
  training: layer("lines", { alpha: 0.8 }),
  truthPath: layer("lines", { alpha: 0.55 }),
  frustums: layer("lines", { alpha: 0.4, visible: false }),
  errors: layer("lines", { alpha: 0.85 }),
  truths: layer("points", { size: 3.4, alpha: 0.8 }),
  answers: layer("points", { size: 5 }),
  chosen: layer("lines"),
  chosenDots: layer("points", { size: 9 }),
};
const TOGGLES = [
  ["points", "points", ["points"]], ["training path", "training", ["training"]], ["truth", "truth", ["truthPath", "truths"]],
  ["answers", "answers", ["answers"]], ["error lines", "errors", ["errors"]], ["frustums", "frustums", ["frustums"]],
];

function cssColour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  probe.remove();
  return found;
}

function unpackPoints() {
  if (!data.points) return;
  const steps = new Uint16Array(bytesOf(data.points.xyz)), xyz = new Float32Array(steps.length);
  for (let k = 0; k < steps.length; k++) xyz[k] = data.points.low[k % 3] + steps[k] * data.points.step[k % 3];
  fill(layers.points, xyz, new Uint8Array(bytesOf(data.points.rgb)));
}

function pathLines(paths, colour) {
  const xyz = [], rgb = [];
  for (const text of paths) {
    const path = floatsOf(text);
    for (let k = 0; k + 5 < path.length; k += 3) {
      xyz.push(...path.subarray(k, k + 6));
      rgb.push(...colour, ...colour);
    }
  }
  return [xyz, rgb];
}

// The eight edges of a camera: four from its centre to the corners of the picture, four around it.
function frustum(poses, i, size) {
  const c = centre(poses, i), [wide, tall] = data.frustum;
  const corners = [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([x, y]) => {
    const side = add(column(poses, i, 2), column(poses, i, 0), x * wide);
    return add(c, add(side, column(poses, i, 1), y * tall), size);
  });
  const lines = [];
  corners.forEach((corner, k) => lines.push(...c, ...corner, ...corner, ...corners[(k + 1) % 4]));
  return lines;
}

function repeat(colour, times) {
  return Array.from({ length: times }, () => colour).flat();
}

function rebuild() {
  const colours = data.colours[colouring].map(rgbOf), dim = cssColour("--truth");
  fill(layers.training, ...pathLines(data.training, cssColour("--path")));
  fill(layers.truthPath, ...pathLines(data.truthPaths, dim));
  const dots = { truths: [[], []], answers: [[], []], errors: [[], []], frustums: [[], []] };
  const every = Math.max(1, Math.ceil(count / 150));
  for (let i = 0; i < count; i++) {
    dots.truths[0].push(...centre(truth, i));
    dots.truths[1].push(...colours[i]);
    if (!answered(i)) continue;
    dots.answers[0].push(...centre(answer, i));
    dots.answers[1].push(...colours[i]);
    dots.errors[0].push(...centre(truth, i), ...centre(answer, i));
    dots.errors[1].push(...colours[i], ...colours[i]);
    if (i % every === 0) {
      const lines = frustum(answer, i, data.radius * 0.07);
      dots.frustums[0].push(...lines);
      dots.frustums[1].push(...repeat(colours[i], lines.length / 3));
    }
  }
  for (const [name, [xyz, rgb]] of Object.entries(dots)) fill(layers[name], xyz, rgb);
  choose(picked);
}

const canvas = find("stage");
const camera = orbitCamera(data.axes, data.centre, data.radius);
const renderer = (location.hash === "#canvas" ? null : webglRenderer(canvas)) || canvasRenderer(canvas);
canvas.dataset.renderer = renderer.name;

function drawNow() {
  const pixelRatio = Math.min(window.devicePixelRatio || 1, 2);
  const width = Math.round(canvas.clientWidth * pixelRatio), height = Math.round(canvas.clientHeight * pixelRatio);
  if (!width || !height) return;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const matrix = camera.matrix(width / height);
  renderer.render(Object.values(layers), { matrix, reach: data.radius * 2.5, pixelRatio }, cssColour("--stage"));
}

let waiting = false;
function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    drawNow();
  });
}

function lengthText(value) {
  if (data.unit !== "m") return `${value.toPrecision(3)} ${data.unit}`;
  return value < 0.01 ? `${(value * 1000).toFixed(2)} mm` : value < 1 ? `${(value * 100).toFixed(2)} cm` : `${value.toFixed(2)} m`;
}

function tell(i) {
  const box = find("picked");
  box.hidden = i < 0;
  if (i < 0) return;
  const frame = data.frames[i], name = document.createElement("strong"), facts = document.createElement("span");
  name.textContent = frame.name;
  const parts = "reason" in frame ? [`refused: ${frame.reason}`] : [lengthText(frame.distance), `${frame.angle.toFixed(2)}°`];
  if ("inliers" in frame) parts.push(`${frame.inliers} inliers`);
  if ("confidence" in frame) parts.push(`confidence ${frame.confidence.toFixed(2)}`);
  facts.textContent = parts.join(" · ");
  box.replaceChildren(name, facts);
  if (i !== picked) return;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "look from here";
  button.addEventListener("click", () => {
    camera.lookFrom(centre(truth, i), unit(column(truth, i, 2)));
    draw();
  });
  box.append(document.createElement("br"), button);
}

function choose(i) {
  picked = i;
  const ink = cssColour("--ink"), size = data.radius * 0.1;
  if (i < 0) {
    fill(layers.chosen, [], []);
    fill(layers.chosenDots, [], []);
  } else {
    const colour = rgbOf(data.colours[colouring][i]), poses = answered(i) ? [truth, answer] : [truth];
    const sets = poses.map((set) => frustum(set, i, size)), lines = sets.flat();
    const rgb = [...repeat(ink, sets[0].length / 3), ...repeat(colour, (lines.length - sets[0].length) / 3)];
    if (answered(i)) {
      lines.push(...centre(truth, i), ...centre(answer, i));
      rgb.push(...colour, ...colour);
    }
    fill(layers.chosen, lines, rgb);
    fill(layers.chosenDots, poses.flatMap((set) => centre(set, i)), poses.flatMap((_, k) => (k ? colour : ink)));
  }
  document.querySelector(".strip rect.on")?.classList.remove("on");
  document.querySelector(`.strip rect[data-frame="${i}"]`)?.classList.add("on");
  tell(i);
  draw();
}

// The frame whose truth or answer is drawn nearest to the pointer, within 14 px; -1 for none.
function frameUnder(event) {
  const box = canvas.getBoundingClientRect(), m = camera.matrix(box.width / box.height);
  let best = -1, least = 14;
  for (let i = 0; i < count; i++) {
    for (const poses of answered(i) ? [truth, answer] : [truth]) {
      const [x, y, z] = centre(poses, i), w = m[3] * x + m[7] * y + m[11] * z + m[15];
      if (w <= 0) continue;
      const px = (0.5 + (m[0] * x + m[4] * y + m[8] * z + m[12]) / w / 2) * box.width;
      const py = (0.5 - (m[1] * x + m[5] * y + m[9] * z + m[13]) / w / 2) * box.height;
      const away = Math.hypot(px - (event.clientX - box.left), py - (event.clientY - box.top));
      if (away < least) [best, least] = [i, away];
    }
  }
  return best;
}

function hover(event) {
  const under = frameUnder(event);
  if (under === hovered) return;
  hovered = under;
  tell(under >= 0 ? under : picked);
}

orbitControls(canvas, camera, draw, {
  tap: (event) => choose(frameUnder(event)),
  hover,
  step: (by) => choose(by === 0 || !count ? -1 : (picked < 0 ? (by > 0 ? 0 : count - 1) : (picked + by + count) % count)),
});
canvas.addEventListener("pointerleave", () => { hovered = -1; tell(picked); });

for (const [label, key, names] of TOGGLES) {
  if (key === "points" && !data.points) continue;
  const box = document.createElement("input"), wrap = document.createElement("label");
  box.type = "checkbox";
  box.checked = layers[names[0]].visible;
  box.addEventListener("change", () => {
    for (const name of names) layers[name].visible = box.checked;
    draw();
  });
  wrap.append(box, label);
  find("toggles").append(wrap);
}
find("colouring").addEventListener("change", (event) => {
  colouring = event.target.value;
  for (const id of ["low", "high"]) find(id).textContent = find(id).dataset[colouring];
  rebuild();
});
find("home").addEventListener("click", () => { camera.home(); choose(-1); });
document.addEventListener("click", (event) => {
  const mark = event.target.closest?.("[data-frame]");
  if (!mark) return;
  choose(Number(mark.dataset.frame));
  if (!mark.closest(".stripbox")) find("view").scrollIntoView({ block: "start" });
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", rebuild);
new ResizeObserver(draw).observe(canvas);
unpackPoints();
rebuild();
