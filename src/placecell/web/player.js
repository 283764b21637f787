// A recorded trajectory: read from a file of `placecell track` or `localize`, moved along by a clock, a slider and keys.
"use strict";

const STEP_S = 0.1; // between rows of a file that tells no times

// Rows { time, name, t, quat_wxyz, covariance, reason }, those without a pose with t null; times count from the first row.
function readTrajectory(text) {
  const rows = [];
  text.split(/\r?\n/).forEach((line, k) => {
    const words = line.trim();
    if (!words || words.startsWith("#")) return;
    const row = words.startsWith("{") ? jsonRow(words) : tumRow(words);
    if (!row) throw new Error(`line ${k + 1} is neither of a TUM file (t x y z qx qy qz qw) nor a prediction in JSON`);
    rows.push({ name: "", ...row, time: row.time ?? rows.length * STEP_S });
  });
  if (!rows.some((row) => row.t)) throw new Error("there is no pose in it");
  const first = rows[0].time;
  for (const row of rows) row.time -= first;
  if (rows.some((row, k) => k && row.time < rows[k - 1].time)) throw new Error("its times go back");
  return rows;
}

function tumRow(words) {
  const values = words.split(/\s+/).map(Number);
  if (values.length !== 8 || !values.every(Number.isFinite)) return null;
  const [time, x, y, z, qx, qy, qz, qw] = values;
  return posed({ time, t: [x, y, z], quat_wxyz: [qw, qx, qy, qz] });
}

function jsonRow(words) {
  let row;
  try { row = JSON.parse(words); } catch { return null; }
  const numbers = (list, count) => Array.isArray(list) && list.length === count && list.every(Number.isFinite);
  const { name, time_s, t, quat_wxyz, covariance, reason } = row;
  const kept = { name: String(name ?? ""), time: Number.isFinite(time_s) ? time_s : null };
  if (t == null) return quat_wxyz == null ? { ...kept, t: null, reason: String(reason ?? "no reason told") } : null;
  if (!numbers(t, 3) || !numbers(quat_wxyz, 4)) return null;
  return posed({ ...kept, t, quat_wxyz, covariance: numbers(covariance, 21) ? covariance : null });
}

function posed(row) {
  const length = Math.hypot(...row.quat_wxyz);
  return length > 1e-6 ? { ...row, quat_wxyz: row.quat_wxyz.map((v) => v / length) } : null;
}

// Ends of line segments; where frames were not placed, or none came for long, the path has a gap.
function pathSegments(rows) {
  const steps = rows.slice(1).map((row, k) => row.time - rows[k].time).sort((a, b) => a - b);
  const long = 5 * (steps[steps.length >> 1] ?? 0) + 1e-9, lines = [];
  for (let k = 1; k < rows.length; k++) {
    const [a, b] = [rows[k - 1], rows[k]];
    if (a.t && b.t && b.time - a.time <= long) lines.push(...a.t, ...b.t);
  }
  return lines;
}

function clockText(seconds) {
  const minutes = Math.floor(seconds / 60);
  return `${minutes}:${(seconds - 60 * minutes).toFixed(1).padStart(4, "0")}`;
}

// parts: the elements play, slider, now, speed. shown(row) draws a row.
function trajectoryPlayer(parts, shown) {
  const state = { rows: [], at: 0, playing: false };
  let startedAt = 0, startedTime = 0;

  function show(at) {
    state.at = Math.min(Math.max(at, 0), state.rows.length - 1);
    const row = state.rows[state.at], last = state.rows[state.rows.length - 1];
    const what = [row.name, row.t ? "" : `not placed: ${row.reason}`].filter(Boolean).join(" · ");
    parts.slider.value = state.at;
    parts.slider.setAttribute("aria-valuetext", `${clockText(row.time)} ${what}`);
    parts.now.textContent = `${clockText(row.time)} of ${clockText(last.time)}${what && ` · ${what}`}`;
    parts.now.classList.toggle("refused", !row.t);
    shown(row);
  }

  function begin() {
    startedAt = performance.now();
    startedTime = state.rows[state.at].time;
  }

  function turn(playing) {
    if (!state.rows.length) return;
    if (playing && state.at === state.rows.length - 1) show(0);
    state.playing = playing;
    parts.play.textContent = playing ? "❚❚" : "▶";
    parts.play.setAttribute("aria-label", playing ? "pause" : "play");
    if (!playing) return;
    begin();
    requestAnimationFrame(tick);
  }

  function tick() {
    if (!state.playing) return;
    const time = startedTime + ((performance.now() - startedAt) / 1000) * Number(parts.speed.value);
    let at = state.at;
    while (at + 1 < state.rows.length && state.rows[at + 1].time <= time) at += 1;
    if (at !== state.at) show(at);
    if (at === state.rows.length - 1) turn(false);
    else requestAnimationFrame(tick);
  }

  function seek(at) {
    if (!state.rows.length) return;
    show(at);
    begin();
  }

  parts.play.addEventListener("click", () => turn(!state.playing));
  parts.slider.addEventListener("input", () => seek(Number(parts.slider.value)));
  parts.speed.addEventListener("change", begin);
  parts.slider.addEventListener("keydown", (event) => {
    if (event.key !== " ") return;
    event.preventDefault();
    turn(!state.playing);
  });
  return {
    state,
    seek,
    toggle() { turn(!state.playing); },
    load(rows) {
      turn(false);
      state.rows = rows;
      parts.slider.max = rows.length - 1;
      show(0);
    },
    close() {
      turn(false);
      state.rows = [];
    },
  };
}
