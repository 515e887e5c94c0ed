'use strict';
// Data, numbers, colours and drawing: what every part of the page uses. Text of checkpoints and
// models is only ever set as textContent.
const byId = (id) => document.getElementById(id);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith('on')) node[key] = value;
    else node.setAttribute(key, value === true ? '' : value);
  }
  node.append(...children);
  return node;
}

// ---- data -------------------------------------------------------------------------------------
const KINDS = {u2: [Uint16Array, 65535], i2: [Int16Array, -32768], u1: [Uint8Array, 255], i1: [Int8Array, -128]};
let META, BUFFER;

async function inflate(id) {
  const text = atob(byId(id).textContent.trim()), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Response(stream).arrayBuffer();
}

/** An array of the data by its reference {"$": n}: its shape, and the value at an index. */
function array(reference) {
  const {t, s, o, k, b} = META.arrays[reference.$], [Kind, missing] = KINDS[t];
  const raw = new Kind(BUFFER, o, s.reduce((x, y) => x * y, 1));
  return {shape: s, at: (i) => (raw[i] === missing ? NaN : raw[i] * k + b)};
}

// ---- numbers ----------------------------------------------------------------------------------
const absent = (x) => x === null || x === undefined || Number.isNaN(x);
function significant(x, digits = 3) {
  if (absent(x)) return '–';
  if (x === 0) return '0';
  const size = Math.abs(x);
  return size < 1e-3 || size >= 1e5 ? x.toExponential(digits - 1) : String(+x.toPrecision(digits));
}
const FORMATS = {
  fixed: (x) => (absent(x) ? '–' : x !== 0 && Math.abs(x) < 5e-5 ? x.toExponential(1) : x.toFixed(4)),
  share: (x) => (absent(x) ? '–' : `${significant(100 * x)} %`),
  sig: (x) => significant(x, 4),
  p: (x) => (absent(x) ? '–' : x < 1e-300 ? '< 1e-300' : significant(x, 2)),
  one: (x) => (absent(x) ? '–' : x.toFixed(1)),
  text: (x) => (absent(x) || x === '' ? '–' : String(x)),
};
const shown = (format, x) => (FORMATS[format] || FORMATS.sig)(x);

// ---- colours ----------------------------------------------------------------------------------
const RED_BLUE = [[5, 48, 97], [33, 102, 172], [67, 147, 195], [146, 197, 222], [209, 229, 240], [247, 247, 247],
  [253, 219, 199], [244, 165, 130], [214, 96, 77], [178, 24, 43], [103, 0, 31]];
const VIRIDIS = [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137],
  [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37]];
const MISSING = [242, 194, 0];
function ramp(stops, t) {
  const x = Math.max(0, Math.min(1, t)) * (stops.length - 1), i = Math.min(stops.length - 2, Math.floor(x));
  return stops[i].map((v, c) => Math.round(v + (stops[i + 1][c] - v) * (x - i)));
}
/** A colour scale: {low, high, colours: sequential or diverging, log}. */
function colourOf(scale, x) {
  if (absent(x)) return MISSING;
  const {low, high} = scale;
  const t = scale.log ? Math.log(Math.max(x, low) / low) / Math.log(high / low) : (x - low) / (high - low || 1);
  return ramp(scale.colours === 'diverging' ? RED_BLUE : VIRIDIS, t);
}
const rgb = (c) => `rgb(${c[0]},${c[1]},${c[2]})`;
const COLOURS = ['--c0', '--c1', '--c2', '--c3', '--c4', '--c5', '--c6', '--c7', '--c8', '--c9', '--c10', '--c11'];
const colour = (i) => css(COLOURS[i % COLOURS.length]);

// ---- pens: one drawing, on a canvas or as SVG --------------------------------------------------
const FONT = 'system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
class CanvasPen {
  constructor(canvas, width, height, scale = devicePixelRatio || 1) {
    Object.assign(this, {width, height, canvas});
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.width = '100%';
    canvas.style.maxWidth = `${width}px`;
    canvas.style.aspectRatio = `${width} / ${height}`;
    this.c = canvas.getContext('2d');
    this.c.scale(scale, scale);
    this.c.imageSmoothingEnabled = false;
  }
  rect(x, y, w, h, fill, stroke) {
    if (fill) { this.c.fillStyle = fill; this.c.fillRect(x, y, w, h); }
    if (stroke) { this.c.strokeStyle = stroke; this.c.lineWidth = 1; this.c.strokeRect(x, y, w, h); }
  }
  path(points, {stroke, width = 1.4, dash = [], fill} = {}) {
    if (!points.length) return;
    this.c.beginPath();
    points.forEach(([x, y], i) => (i ? this.c.lineTo(x, y) : this.c.moveTo(x, y)));
    if (fill) { this.c.closePath(); this.c.fillStyle = fill; this.c.fill(); }
    if (stroke) { this.c.strokeStyle = stroke; this.c.lineWidth = width; this.c.setLineDash(dash); this.c.stroke(); this.c.setLineDash([]); }
  }
  dot(x, y, r, fill, stroke) {
    this.c.beginPath(); this.c.arc(x, y, r, 0, 7);
    if (fill) { this.c.fillStyle = fill; this.c.fill(); }
    if (stroke) { this.c.strokeStyle = stroke; this.c.lineWidth = 1.4; this.c.stroke(); }
  }
  text(x, y, words, {align = 'left', size = 11, fill = css('--ink'), bold = false} = {}) {
    this.c.font = `${bold ? '600 ' : ''}${size}px ${FONT}`;
    this.c.fillStyle = fill; this.c.textAlign = align; this.c.textBaseline = 'middle';
    this.c.fillText(words, x, y);
  }
  image(x, y, w, h, picture) { this.c.drawImage(picture, x, y, w, h); }
}

class SvgPen {
  constructor(width, height) {
    Object.assign(this, {width, height});
    const name = 'http://www.w3.org/2000/svg';
    this.make = (tag, attributes) => {
      const node = document.createElementNS(name, tag);
      for (const [k, v] of Object.entries(attributes)) if (v !== undefined && v !== null) node.setAttribute(k, v);
      this.svg.append(node);
      return node;
    };
    this.svg = document.createElementNS(name, 'svg');
    this.svg.setAttribute('xmlns', name);
    this.svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    this.svg.setAttribute('width', width);
    this.svg.setAttribute('height', height);
  }
  rect(x, y, w, h, fill, stroke) { this.make('rect', {x, y, width: w, height: h, fill: fill || 'none', stroke}); }
  path(points, {stroke, width = 1.4, dash = [], fill} = {}) {
    const d = points.map(([x, y], i) => `${i ? 'L' : 'M'}${x.toFixed(2)} ${y.toFixed(2)}`).join('') + (fill ? 'Z' : '');
    this.make('path', {d, fill: fill || 'none', stroke, 'stroke-width': width, 'stroke-dasharray': dash.join(' ') || null});
  }
  dot(x, y, r, fill, stroke) { this.make('circle', {cx: x, cy: y, r, fill: fill || 'none', stroke}); }
  text(x, y, words, {align = 'left', size = 11, fill = css('--ink'), bold = false} = {}) {
    const anchor = {left: 'start', center: 'middle', right: 'end'}[align];
    this.make('text', {x, y: y + size / 3, 'text-anchor': anchor, 'font-size': size, 'font-family': FONT, fill,
      'font-weight': bold ? 600 : null}).textContent = words;
  }
  image(x, y, w, h, picture) {
    this.make('image', {x, y, width: w, height: h, href: picture.toDataURL('image/png'),
      preserveAspectRatio: 'none', style: 'image-rendering: pixelated'});
  }
}

/** Pixels of a matrix: a canvas with one pixel a cell; value(row, column), first row on top. */
function pixels(rows, columns, value, scale) {
  const canvas = document.createElement('canvas');
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext('2d'), image = context.createImageData(columns, rows);
  for (let r = 0, o = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++, o += 4) {
      const x = value(r, c), [red, green, blue] = colourOf(scale, x);
      image.data[o] = red; image.data[o + 1] = green; image.data[o + 2] = blue;
      image.data[o + 3] = x === null ? 0 : 255;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// ---- files and words at the pointer ------------------------------------------------------------
function save(name, blob) {
  const link = el('a', {href: URL.createObjectURL(blob), download: name.replace(/[^\w.-]+/g, '-')});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** Buttons that save a drawing: draw(pen) draws it at the given size. */
function exporters(name, size, draw) {
  const png = () => {
    const canvas = document.createElement('canvas'), [width, height] = size();
    const pen = new CanvasPen(canvas, width, height, 2);
    pen.rect(0, 0, width, height, css('--paper'));
    draw(pen);
    canvas.toBlob((blob) => save(`${name}.png`, blob));
  };
  const svg = () => {
    const [width, height] = size(), pen = new SvgPen(width, height);
    pen.rect(0, 0, width, height, css('--paper'));
    draw(pen);
    save(`${name}.svg`, new Blob([new XMLSerializer().serializeToString(pen.svg)], {type: 'image/svg+xml'}));
  };
  return el('span', {class: 'save'},
    el('button', {type: 'button', onclick: png, 'aria-label': `Save ${name} as PNG`}, 'PNG'),
    el('button', {type: 'button', onclick: svg, 'aria-label': `Save ${name} as SVG`}, 'SVG'));
}

function tip(event, words) {
  const box = byId('tip');
  box.hidden = !words;
  if (!words) return;
  box.textContent = words;
  box.style.left = `${Math.max(0, Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8))}px`;
  box.style.top = `${Math.max(0, Math.min(event.clientY + 14, innerHeight - box.offsetHeight - 8))}px`;
}

/** Tells under the pointer what told(x, y) says, x and y being shares of the node's size. */
function hover(node, told) {
  node.addEventListener('pointermove', (event) => {
    const box = node.getBoundingClientRect();
    tip(event, told((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height));
  });
  node.addEventListener('pointerleave', () => tip());
}
