// The page of the service: takes a photo, asks for its pose, and draws the answer into the map.
"use strict";

const find = (id) => document.getElementById(id);
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
const SURE = Math.sqrt(7.815); // of a chi-squared with three degrees of freedom, 95 % lie below 7.815

let maps = [], view = null, camera = null, shown = -1, asking = 0;
const answers = [];

function layer(kind, options = {}) {
  return { kind, xyz: new Float32Array(0), rgb: new Uint8Array(0), size: 2, alpha: 1, depth: false, visible: true, version: 0, ...options };
}
const layers = {
  points: layer("points", { size: 2.2, depth: true }),
  training: layer("lines", { alpha: 0.7 }),
  earlier: layer("lines", { alpha: 0.5 }),
  frustum: layer("lines"),
  ellipsoid: layer("lines", { alpha: 0.9 }),
  centre: layer("points", { size: 9 }),
  route: layer("lines", { alpha: 0.85 }),
  rider: layer("lines"),
  around: layer("lines", { alpha: 0.9 }),
};
const canvas = find("stage");
const renderer = (location.hash === "#canvas" ? null : webglRenderer(canvas)) || canvasRenderer(canvas);
canvas.dataset.renderer = renderer.name;

function fill(target, xyz, rgb) {
  target.xyz = new Float32Array(xyz);
  target.rgb = new Uint8Array(rgb);
  target.version += 1;
}
const repeat = (colour, times) => Array.from({ length: times }, () => colour).flat();

function cssColour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  probe.remove();
  return found;
}

async function ask(path, options = {}) {
  const headers = find("token").value ? { Authorization: `Bearer ${find("token").value}` } : {};
  const reply = await fetch(path, { ...options, headers });
  if (reply.ok) return reply;
  const problem = (await reply.json().catch(() => null))?.error ?? { kind: "strange", message: `status ${reply.status}` };
  if (reply.status === 401) find("tokenbox").hidden = false;
  throw Object.assign(new Error(problem.message), problem);
}

async function begin() {
  maps = await (await ask("v1/maps")).json();
  find("map").replaceChildren(...maps.map((map) => new Option(map.name, map.name)));
  find("mapbox").hidden = maps.length < 2;
  await enter(maps[0]);
  const recorded = await (await ask("v1/trajectory")).json();
  if (recorded) play(recorded.name, recorded.text);
}

async function enter(map) {
  leave();
  complain(null);
  const precision = map.precision ? `, ${map.precision}` : "";
  find("about").textContent = `${map.scene}: a ${map.family} map${precision}, lengths in ${map.unit}`;
  answers.length = 0;
  shown = -1;
  find("answer").hidden = true;
  view = await (await ask(`v1/maps/${encodeURIComponent(map.name)}/view`)).json();
  find("view").hidden = !view;
  if (!view) return;
  camera = orbitCamera(view.axes, view.centre, view.radius);
  drawMap();
  drawAnswers();
}

function drawMap() {
  if (view.points) {
    const steps = new Uint16Array(bytesOf(view.points.xyz)), xyz = new Float32Array(steps.length);
    for (let k = 0; k < steps.length; k++) xyz[k] = view.points.low[k % 3] + steps[k] * view.points.step[k % 3];
    fill(layers.points, xyz, new Uint8Array(bytesOf(view.points.rgb)));
  } else fill(layers.points, [], []);
  const xyz = [], colour = cssColour("--path");
  for (const text of view.training) {
    const path = new Float32Array(bytesOf(text));
    for (let k = 0; k + 5 < path.length; k += 3) xyz.push(...path.subarray(k, k + 6));
  }
  fill(layers.training, xyz, repeat(colour, xyz.length / 3));
}

// Rows of the rotation of a unit quaternion, w first.
function rotation([w, x, y, z]) {
  return [
    [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
    [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
    [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
  ];
}
const turned = (R, v) => R.map((row) => dot(row, v));

function frustum(answer, size) {
  const R = rotation(answer.quat_wxyz), lens = answer.camera, c = answer.t;
  const corners = [[0, 0], [lens.width, 0], [lens.width, lens.height], [0, lens.height]].map(([u, v]) =>
    add(c, turned(R, [(u - lens.cx) / lens.fx, (v - lens.cy) / lens.fy, 1]), size));
  const lines = [];
  corners.forEach((corner, k) => lines.push(...c, ...corner, ...corner, ...corners[(k + 1) % 4]));
  const above = add(add(corners[0], corners[1]), corners[0], -1), middle = corners[0].map((v, k) => (v + corners[1][k]) / 2);
  const tip = add(middle, turned(R, [0, -1, 0]), size * 0.18); // a tick says which side of the picture is up
  lines.push(...corners[0], ...tip, ...tip, ...above);
  return lines;
}

// (3, 3) of the centre, in camera axes, from the upper triangle of the 6x6.
function centreCovariance(upper) {
  const at = (i, j) => upper[i * 6 - (i * (i - 1)) / 2 + (j - i)];
  return [3, 4, 5].map((i) => [3, 4, 5].map((j) => at(Math.min(i, j), Math.max(i, j))));
}
function cholesky(S) {
  const L = [[0, 0, 0], [0, 0, 0], [0, 0, 0]];
  for (let i = 0; i < 3; i++) {
    for (let j = 0; j <= i; j++) {
      let rest = S[i][j];
      for (let k = 0; k < j; k++) rest -= L[i][k] * L[j][k];
      L[i][j] = i === j ? Math.sqrt(Math.max(rest, 0)) : L[j][j] ? rest / L[j][j] : 0;
    }
  }
  return L;
}

// Three closed curves on the surface in which the centre lies with 95 %: circles, as the covariance makes them.
function ellipsoid(answer, magnified) {
  const R = rotation(answer.quat_wxyz), L = cholesky(centreCovariance(answer.covariance)), lines = [];
  for (const [a, b] of [[0, 1], [1, 2], [2, 0]]) {
    const at = (k) => {
      const u = [0, 0, 0];
      u[a] = Math.cos(k * Math.PI / 24);
      u[b] = Math.sin(k * Math.PI / 24);
      return add(answer.t, turned(R, turned(L, u)), SURE * magnified);
    };
    for (let k = 0; k < 48; k++) lines.push(...at(k), ...at(k + 1));
  }
  return lines;
}
const ORANGE = [238, 132, 52];
const magnification = (answer) =>
  [1, 10, 100].find((m) => m * SURE * Math.max(...spreads(answer)) > view.radius * 0.02) ?? 100;
const spreads = (answer) => centreCovariance(answer.covariance).map((row, k) => Math.sqrt(Math.max(row[k], 0)));

function drawAnswers() {
  if (!view) return;
  const accent = cssColour("--accent"), ink = cssColour("--ink"), placed = answers.filter((a) => a.t);
  const one = answers[shown], size = view.radius * 0.13;
  const others = placed.filter((a) => a !== one).flatMap((a) => frustum(a, size * 0.55));
  fill(layers.earlier, others, repeat(ink, others.length / 3));
  const lines = one?.t ? frustum(one, size) : [], round = [];
  fill(layers.frustum, lines, repeat(accent, lines.length / 3));
  fill(layers.centre, one?.t ?? [], one?.t ? accent : []);
  find("scale").textContent = "";
  if (one?.t && one.covariance) {
    const magnified = magnification(one);
    round.push(...ellipsoid(one, magnified));
    find("scale").textContent = magnified > 1 ? `95 % ellipsoid, drawn ${magnified} times as large` : "95 % ellipsoid";
  }
  fill(layers.ellipsoid, round, repeat(ORANGE, round.length / 3));
  find("stand").disabled = !one?.t;
  draw();
}

let waiting = false;
function draw() {
  if (waiting || !view) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    const pixelRatio = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.round(canvas.clientWidth * pixelRatio), height = Math.round(canvas.clientHeight * pixelRatio);
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const matrix = camera.matrix(width / height);
    renderer.render(Object.values(layers), { matrix, reach: view.radius * 2.5, pixelRatio }, cssColour("--stage"));
  });
}

function lengthText(value, unitName) {
  if (unitName !== "m") return `${value.toPrecision(3)} ${unitName}`;
  return value < 0.01 ? `${(value * 1000).toFixed(1)} mm` : value < 1 ? `${(value * 100).toFixed(1)} cm` : `${value.toFixed(2)} m`;
}

function tile(name, text) {
  const box = document.createElement("div"), label = document.createElement("dt"), value = document.createElement("dd");
  [label.textContent, value.textContent] = [name, text];
  box.append(value, label);
  return box;
}

async function tell(index) {
  shown = index;
  const one = answers[index], verdict = find("verdict");
  find("answer").hidden = !one;
  drawAnswers();
  if (!one) return;
  find("asked").textContent = one.name;
  find("query").parentElement.hidden = false;
  find("query").src = one.picture;
  verdict.classList.toggle("refused", !one.t);
  const tiles = [];
  if (one.t) {
    verdict.textContent = `Taken at ${one.t.map((v) => v.toFixed(2)).join(", ")} ${one.unit}`;
    if (one.covariance) tiles.push(tile("sure of the place to", `± ${lengthText(Math.hypot(...spreads(one)), one.unit)}`));
    if (one.radii) tiles.push(tile(`of ${Math.round(100 * one.radii.coverage)} % of answers, at most this far off`, lengthText(one.radii.distance, one.unit)));
    if (one.confidence != null) tiles.push(tile("confidence", one.confidence.toFixed(2)));
    if (one.inliers != null) tiles.push(tile("matches that agree", one.inliers));
    tiles.push(tile("focal length", one.lens === "guess" ? "guessed" : `${one.camera.fx.toFixed(0)} px of ${one.camera.width}`));
  } else verdict.textContent = `Not placed: ${one.reason}`;
  if (one.timings) tiles.push(tile("took", `${(1000 * (one.timings.decode_s + one.timings.localize_s)).toFixed(0)} ms`));
  find("tiles").replaceChildren(...tiles);
  find("nearestbox").hidden = true;
  if (!one.nearest) return;
  one.nearestPicture ??= URL.createObjectURL(await (await ask(
    `v1/maps/${encodeURIComponent(one.map)}/frames/${one.nearest.frame.split("/").map(encodeURIComponent).join("/")}`)).blob());
  if (answers[shown] !== one) return;
  find("nearest").src = one.nearestPicture;
  const away = `${lengthText(one.nearest.distance, one.unit)} and ${one.nearest.angle_deg.toFixed(1)}° away`;
  find("nearestname").textContent = `nearest training picture, ${away}`;
  find("nearestbox").hidden = false;
}

function complain(text) {
  find("problem").hidden = !text;
  find("problem").textContent = text ?? "";
}

// Where the map itself shows nothing, the path is all there is to see; the camera's y is taken to be down.
function viewOfPath(rows) {
  const placed = rows.filter((row) => row.t), sides = [0, 1, 2].map((k) => placed.map((row) => row.t[k]).sort((a, b) => a - b));
  const centre = sides.map((side) => (side[0] + side[side.length - 1]) / 2);
  const radius = Math.max(0.5, ...sides.map((side) => (side[side.length - 1] - side[0]) / 2));
  return { axes: [[1, 0, 0], [0, 0, 1], [0, -1, 0]], centre, radius, points: null, training: [] };
}

function play(name, text) {
  let rows;
  try {
    rows = readTrajectory(text);
  } catch (error) {
    complain(`${name}: ${error.message}`);
    return;
  }
  complain(null);
  if (!view) {
    view = viewOfPath(rows);
    camera = orbitCamera(view.axes, view.centre, view.radius);
    drawMap();
  }
  find("view").hidden = find("player").hidden = false;
  player.load(rows);
  drawRoute();
  find("view").scrollIntoView({ block: "nearest" });
}

function leave() {
  player.close();
  find("player").hidden = true;
  for (const name of ["route", "rider", "around"]) fill(layers[name], [], []);
  draw();
}

function drawRoute() {
  const lines = pathSegments(player.state.rows);
  fill(layers.route, lines, repeat(cssColour("--truth"), lines.length / 3));
  drawRider(player.state.rows[player.state.at]);
}

function drawRider(row) {
  if (!view || !row) return;
  const { width, height, fx } = maps.find((map) => map.name === find("map").value).camera;
  const lens = { width, height, fx, fy: fx, cx: width / 2, cy: height / 2 };
  const lines = row.t ? frustum({ ...row, camera: lens }, view.radius * 0.13) : [];
  const round = row.t && row.covariance ? ellipsoid(row, magnification(row)) : [];
  fill(layers.rider, lines, repeat(cssColour("--s4"), lines.length / 3)); // no answer to a photo
  fill(layers.around, round, repeat(ORANGE, round.length / 3));
  if (row.t && find("ride").checked) camera.lookFrom(row.t, unit(turned(rotation(row.quat_wxyz), [0, 0, 1])));
  draw();
}

const player = trajectoryPlayer({ play: find("play"), slider: find("slider"), now: find("now"), speed: find("speed") }, drawRider);
const isRoute = (file) => /\.(tum|txt|jsonl)$/i.test(file.name);

async function place(given) {
  const route = [...given].find(isRoute), files = [...given].filter((file) => !isRoute(file));
  if (route) play(route.name, await route.text());
  else complain(null);
  const pictures = [...files].filter((file) => file.type.startsWith("image/") || /\.(jpe?g|png|webp|tiff?|bmp|p[gp]m)$/i.test(file.name));
  for (const file of pictures.length ? pictures : [...files]) {
    const turn = ++asking;
    find("drop").setAttribute("aria-busy", "true");
    const words = new URLSearchParams({ nearest: "1", name: file.name, map: find("map").value });
    if (find("focal").value) words.set("focal_px", find("focal").value);
    const found = { name: file.name, picture: URL.createObjectURL(file) };
    try {
      Object.assign(found, await (await ask(`v1/localize?${words}`, { method: "POST", body: file })).json());
    } catch (error) {
      found.reason = error.message;
    }
    answers.push(found);
    if (turn === asking) find("drop").removeAttribute("aria-busy");
    await tell(answers.length - 1).catch(failed);
  }
}

const failed = (error) => complain(error.message);

for (const id of ["file", "snap", "route"]) {
  find(id).addEventListener("change", (event) => {
    place([...event.target.files]);
    event.target.value = "";
  });
}
for (const kind of ["dragover", "dragenter"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); find("drop").classList.add("over-it"); });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) find("drop").classList.remove("over-it"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  find("drop").classList.remove("over-it");
  place(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => { if (event.clipboardData?.files.length) place(event.clipboardData.files); });
find("map").addEventListener("change", (event) => enter(maps.find((map) => map.name === event.target.value)).catch(failed));
find("token").addEventListener("change", () => begin().catch(failed));
find("home").addEventListener("click", () => { camera?.home(); draw(); });
find("stand").addEventListener("click", () => {
  const one = answers[shown];
  camera.lookFrom(one.t, unit(turned(rotation(one.quat_wxyz), [0, 0, 1])));
  draw();
});
for (const [label, names] of [["points", ["points"]], ["training path", ["training"]], ["earlier answers", ["earlier"]], ["trajectory", ["route", "rider", "around"]]]) {
  const box = document.createElement("input"), wrap = document.createElement("label");
  box.type = "checkbox";
  box.checked = true;
  box.addEventListener("change", () => {
    for (const name of names) layers[name].visible = box.checked;
    draw();
  });
  wrap.append(box, label);
  find("toggles").append(wrap);
}
find("query").addEventListener("error", () => { find("query").parentElement.hidden = true; }); // it is no picture
find("leave").addEventListener("click", leave);
find("ride").addEventListener("change", () => drawRider(player.state.rows[player.state.at]));
canvas.addEventListener("keydown", (event) => {
  if (event.key !== " " || !player.state.rows.length) return;
  event.preventDefault();
  player.toggle();
});
// The controls want a camera from the start; each map brings another.
const current = new Proxy({}, { get: (_, key) => (camera ? camera[key] : () => {}) });
orbitControls(canvas, current, draw, {
  tap: () => {},
  hover: () => {},
  step: (by) => { if (answers.length && by) tell((shown + by + answers.length) % answers.length).catch(failed); },
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (view) { drawMap(); drawAnswers(); drawRoute(); } });
new ResizeObserver(draw).observe(canvas);
begin().catch(failed);
