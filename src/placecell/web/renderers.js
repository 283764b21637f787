// Two ways to draw the same layers: WebGL where there is one, else a 2-D canvas.
// A layer: { kind: "points" | "lines", xyz: Float32Array, rgb: Uint8Array, size, alpha, depth, visible, version }.
// render(layers, view, ground) takes a column-major 4x4 matrix in view.matrix and the background as [r, g, b].

const VERTEX = `
attribute vec3 xyz; attribute vec3 rgb;
uniform mat4 matrix; uniform float size; uniform float near; uniform float most;
varying vec3 colour;
void main() {
  gl_Position = matrix * vec4(xyz, 1.0);
  gl_PointSize = max(size * clamp(near / max(gl_Position.w, 1e-6), 0.45, most), 1.0);
  colour = rgb;
}`;
const FRAGMENT = `
precision mediump float;
uniform float alpha; uniform float round; varying vec3 colour;
void main() {
  if (round > 0.5 && distance(gl_PointCoord, vec2(0.5)) > 0.5) discard;
  gl_FragColor = vec4(colour, alpha);
}`;

function webglRenderer(canvas) {
  const gl = canvas.getContext("webgl", { antialias: true, preserveDrawingBuffer: true });
  if (!gl) return null;
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return null;
  gl.useProgram(program);
  const place = (name) => gl.getUniformLocation(program, name);
  const uniforms = { matrix: place("matrix"), size: place("size"), near: place("near"), most: place("most"), alpha: place("alpha"), round: place("round") };
  const attributes = { xyz: gl.getAttribLocation(program, "xyz"), rgb: gl.getAttribLocation(program, "rgb") };
  gl.enableVertexAttribArray(attributes.xyz);
  gl.enableVertexAttribArray(attributes.rgb);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
  const stored = new Map();

  function buffersOf(layer) {
    let entry = stored.get(layer);
    if (!entry) stored.set(layer, entry = { xyz: gl.createBuffer(), rgb: gl.createBuffer(), version: -1 });
    if (entry.version !== layer.version) {
      for (const key of ["xyz", "rgb"]) {
        gl.bindBuffer(gl.ARRAY_BUFFER, entry[key]);
        gl.bufferData(gl.ARRAY_BUFFER, layer[key], gl.DYNAMIC_DRAW);
      }
      entry.version = layer.version;
    }
    return entry;
  }

  return {
    name: "webgl",
    render(layers, view, ground) {
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(ground[0] / 255, ground[1] / 255, ground[2] / 255, 1);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      gl.uniformMatrix4fv(uniforms.matrix, false, view.matrix);
      gl.uniform1f(uniforms.near, view.reach);
      for (const layer of layers) {
        if (!layer.visible || !layer.xyz.length) continue;
        const buffers = buffersOf(layer);
        gl.bindBuffer(gl.ARRAY_BUFFER, buffers.xyz);
        gl.vertexAttribPointer(attributes.xyz, 3, gl.FLOAT, false, 0, 0);
        gl.bindBuffer(gl.ARRAY_BUFFER, buffers.rgb);
        gl.vertexAttribPointer(attributes.rgb, 3, gl.UNSIGNED_BYTE, true, 0, 0);
        gl.uniform1f(uniforms.size, layer.size * view.pixelRatio);
        gl.uniform1f(uniforms.most, layer.depth ? 4 : 2);
        gl.uniform1f(uniforms.alpha, layer.alpha);
        gl.uniform1f(uniforms.round, layer.kind === "points" ? 1 : 0);
        // Paths and answers are drawn over the cloud, so that no wall hides them.
        if (layer.depth) gl.enable(gl.DEPTH_TEST); else gl.disable(gl.DEPTH_TEST);
        gl.drawArrays(layer.kind === "points" ? gl.POINTS : gl.LINES, 0, layer.xyz.length / 3);
      }
    },
  };
}

function canvasRenderer(canvas) {
  const pen = canvas.getContext("2d");
  const most = 15000;

  function project(m, xyz, i) {
    const x = xyz[i], y = xyz[i + 1], z = xyz[i + 2];
    const w = m[3] * x + m[7] * y + m[11] * z + m[15];
    if (w <= 1e-6) return null;
    return [
      (0.5 + (m[0] * x + m[4] * y + m[8] * z + m[12]) / w / 2) * canvas.width,
      (0.5 - (m[1] * x + m[5] * y + m[9] * z + m[13]) / w / 2) * canvas.height,
    ];
  }

  function drawPoints(layer, view) {
    const count = layer.xyz.length / 3, stride = Math.max(1, Math.ceil(count / most));
    const size = Math.max(1, layer.size * view.pixelRatio);
    for (let k = 0; k < count; k += stride) {
      const at = project(view.matrix, layer.xyz, 3 * k);
      if (!at) continue;
      pen.fillStyle = `rgb(${layer.rgb[3 * k]},${layer.rgb[3 * k + 1]},${layer.rgb[3 * k + 2]})`;
      pen.fillRect(at[0] - size / 2, at[1] - size / 2, size, size);
    }
  }

  function drawLines(layer, view) {
    pen.lineWidth = view.pixelRatio;
    for (let k = 0; k + 1 < layer.xyz.length / 3; k += 2) {
      const a = project(view.matrix, layer.xyz, 3 * k), b = project(view.matrix, layer.xyz, 3 * k + 3);
      if (!a || !b) continue;
      pen.strokeStyle = `rgb(${layer.rgb[3 * k]},${layer.rgb[3 * k + 1]},${layer.rgb[3 * k + 2]})`;
      pen.beginPath();
      pen.moveTo(a[0], a[1]);
      pen.lineTo(b[0], b[1]);
      pen.stroke();
    }
  }

  return {
    name: "canvas",
    render(layers, view, ground) {
      pen.globalAlpha = 1;
      pen.fillStyle = `rgb(${ground.join(",")})`;
      pen.fillRect(0, 0, canvas.width, canvas.height);
      for (const layer of layers) {
        if (!layer.visible || !layer.xyz.length) continue;
        pen.globalAlpha = layer.alpha;
        (layer.kind === "points" ? drawPoints : drawLines)(layer, view);
      }
    },
  };
}
