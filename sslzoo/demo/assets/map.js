// The map: points on a canvas, photos where few are in sight. Drag moves, the wheel zooms, a click searches.
const FEW = 150, SIDE = 46, NEAR = 14;
let chart = null;

// gradio changes the page's nodes in place: the same nodes may come back with other data, or be new ones
function init() {
  const root = element.querySelector('.chart');
  if (!root || root.dataset.xy === undefined) return;
  const bytes = (name) => Uint8Array.from(atob(root.dataset[name]), (c) => c.charCodeAt(0)).buffer;
  const data = {
    xy: new Uint16Array(bytes('xy')), colour: new Uint8Array(bytes('colour')), row: new Uint32Array(bytes('row')),
    palette: root.dataset.palette.split(' '), hover: -1,
  };
  // points of one colour one after the other, those of none (255) first, under all others
  const turn = (i) => (data.colour[i] + 1) & 255;
  data.order = Uint32Array.from(data.row.keys()).sort((a, b) => turn(a) - turn(b) || a - b);
  data.seen = new Uint32Array(data.row.length);
  for (const name of ['xy', 'colour', 'row']) root.removeAttribute(`data-${name}`);
  if (chart && chart.root === root) {
    Object.assign(chart, data);
  } else {
    chart = {
      ...data, root, canvas: root.querySelector('canvas'), tip: root.querySelector('.tip'),
      images: new Map(), names: new Map(), scale: 1, x: 0, y: 0,
    };
    new ResizeObserver(draw).observe(root);
    listen(chart);
  }
  draw();
}

const pad = 30;
// x and y on the canvas are a + b * value: no array is made for any of 50,000 points
function axes(c) {
  const w = c.canvas.clientWidth - 2 * pad, h = c.canvas.clientHeight - 2 * pad;
  return [pad + c.x, (w * c.scale) / 65535, pad + c.y + h * c.scale, (-h * c.scale) / 65535];
}

function place(c, i) {
  const [ax, bx, ay, by] = axes(c);
  return [ax + bx * c.xy[2 * i], ay + by * c.xy[2 * i + 1]];
}

function inSight(c) {
  const w = c.canvas.clientWidth + SIDE, h = c.canvas.clientHeight + SIDE, [ax, bx, ay, by] = axes(c);
  let count = 0;
  for (const i of c.order) {
    const x = ax + bx * c.xy[2 * i], y = ay + by * c.xy[2 * i + 1];
    if (x > -SIDE && y > -SIDE && x < w && y < h) c.seen[count++] = i;
  }
  return c.seen.subarray(0, count);
}

function image(c, i) {
  const row = c.row[i];
  if (!c.images.has(row)) {
    const made = new Image();
    made.onload = draw;
    made.src = `${c.root.dataset.photo}/${row}/160`;
    c.images.set(row, made);
  }
  const made = c.images.get(row);
  return made.complete && made.naturalWidth ? made : null;
}

let waiting = false;
function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; if (chart) paint(chart); });
}

function paint(c) {
  const ratio = window.devicePixelRatio || 1, w = c.canvas.clientWidth, h = c.canvas.clientHeight;
  if (!w) return;
  c.canvas.width = w * ratio; c.canvas.height = h * ratio;
  const pen = c.canvas.getContext('2d');
  pen.scale(ratio, ratio);
  const seen = inSight(c), photos = seen.length <= FEW, side = photos ? SIDE : Math.max(2, Math.min(6, 900 / Math.sqrt(seen.length) / 6));
  c.photos = photos;
  const [ax, bx, ay, by] = axes(c), half = side / 2;
  let colour = -1;
  pen.globalAlpha = photos ? 1 : 0.75;
  for (const i of seen) {
    const x = ax + bx * c.xy[2 * i], y = ay + by * c.xy[2 * i + 1];
    if (c.colour[i] !== colour) {
      colour = c.colour[i];
      pen.fillStyle = colour === 255 ? '#94a3b8' : c.palette[colour];
    }
    if (!photos) { pen.fillRect(x - half, y - half, side, side); continue; }
    pen.fillRect(x - half - 3, y - half - 3, side + 6, side + 6);
    const picture = image(c, i);
    if (picture) {
      const cut = Math.min(picture.naturalWidth, picture.naturalHeight);
      const left = (picture.naturalWidth - cut) / 2, top = (picture.naturalHeight - cut) / 2;
      pen.drawImage(picture, left, top, cut, cut, x - half, y - half, side, side);
    }
  }
  pen.globalAlpha = 1;
  if (c.hover >= 0) {
    const [x, y] = place(c, c.hover), r = (photos ? SIDE / 2 + 3 : side / 2 + 3);
    pen.strokeStyle = getComputedStyle(c.root).color;
    pen.lineWidth = 2;
    pen.strokeRect(x - r, y - r, 2 * r, 2 * r);
  }
}

function nearest(c, event) {
  const area = c.canvas.getBoundingClientRect(), px = event.clientX - area.left, py = event.clientY - area.top;
  const [ax, bx, ay, by] = axes(c);
  let best = -1, least = (c.photos ? SIDE / 2 : NEAR) ** 2;
  for (let i = 0; i < c.row.length; i++) {
    const x = ax + bx * c.xy[2 * i] - px, y = ay + by * c.xy[2 * i + 1] - py, d = x * x + y * y;
    if (d <= least) { best = i; least = d; }
  }
  return best;
}

function zoom(c, factor, px, py) {
  if (!factor) { c.scale = 1; c.x = 0; c.y = 0; return draw(); }
  const scale = Math.min(200, Math.max(0.5, c.scale * factor)), by = scale / c.scale;
  c.x = px - pad - (px - pad - c.x) * by;
  c.y = py - pad - (py - pad - c.y) * by;
  c.scale = scale;
  draw();
}

function show(c, i) {
  if (i === c.hover) return;
  c.hover = i;
  draw();
  c.tip.classList.toggle('on', i >= 0);
  if (i < 0) return;
  const row = c.row[i], [x, y] = place(c, i), w = c.canvas.clientWidth;
  c.tip.querySelector('img').src = `${c.root.dataset.photo}/${row}/320`;
  c.tip.style.left = `${x > w / 2 ? x - 190 : x + 30}px`;
  c.tip.style.top = `${Math.max(4, Math.min(c.canvas.clientHeight - 210, y - 90))}px`;
  const text = c.tip.querySelector('span');
  text.textContent = c.names.get(row) || '';
  if (!c.names.has(row)) {
    fetch(`${c.root.dataset.photo}/${row}/about`).then((answer) => answer.json()).then((facts) => {
      c.names.set(row, facts.id);
      if (c.hover === i) text.textContent = facts.id;
    }).catch(() => {});
  }
}

function listen(c) {
  let held = null, moved = false;
  c.canvas.addEventListener('wheel', (event) => {
    event.preventDefault();
    const area = c.canvas.getBoundingClientRect();
    zoom(c, event.deltaY < 0 ? 1.2 : 1 / 1.2, event.clientX - area.left, event.clientY - area.top);
  }, { passive: false });
  c.canvas.addEventListener('pointerdown', (event) => {
    if (event.button) return;
    held = [event.clientX - c.x, event.clientY - c.y]; moved = false;
    c.canvas.setPointerCapture(event.pointerId);
  });
  c.canvas.addEventListener('pointermove', (event) => {
    if (!held) return show(c, nearest(c, event));
    const [x, y] = [event.clientX - held[0], event.clientY - held[1]];
    if (Math.abs(x - c.x) + Math.abs(y - c.y) > 4) moved = true;
    if (moved) { c.x = x; c.y = y; show(c, -1); draw(); }
  });
  c.canvas.addEventListener('pointerup', (event) => {
    const i = held && !moved ? nearest(c, event) : -1;
    held = null;
    if (i >= 0) trigger('pick', { row: c.row[i] });
  });
  c.canvas.addEventListener('pointercancel', () => { held = null; });
  c.canvas.addEventListener('pointerleave', () => show(c, -1));
  c.root.querySelector('.zoom').addEventListener('click', (event) => {
    const factor = event.target.dataset.zoom;
    if (factor !== undefined) zoom(c, Number(factor), c.canvas.clientWidth / 2, c.canvas.clientHeight / 2);
  });
}

init();
watch('value', init);
