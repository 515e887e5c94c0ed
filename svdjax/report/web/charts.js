'use strict';
// Plots by kind, as the stages describe them: lines (uPlot), heat maps, rows of dots, points.

const extent = (values) => {
  let low = Infinity, high = -Infinity;
  for (const x of values) if (!absent(x) && Number.isFinite(x)) { if (x < low) low = x; if (x > high) high = x; }
  return low <= high ? [low, high] : null;
};

/** Round ticks of an axis; of a logarithmic one, the decades and, where these are few, 2 and 5. */
function ticksOf([low, high], log, most = 6) {
  if (log) {
    const ticks = [], few = high / low < 300;
    for (let p = Math.floor(Math.log10(low)); p <= Math.log10(high); p++) {
      for (const m of few ? [1, 2, 5] : [1]) { const x = m * 10 ** p; if (x >= low * 0.999 && x <= high * 1.001) ticks.push(x); }
    }
    return ticks.filter((_, i) => i % Math.ceil(ticks.length / 8) === 0);
  }
  const rough = (high - low) / most || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= rough * 0.999), ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(+(i * step).toPrecision(12));
  return ticks;
}
const number = (percent) => (x) => (absent(x) ? '' : percent ? `${+(100 * x).toPrecision(6)} %` : String(+x.toPrecision(6)));
const spot = ([low, high], log) => (x) => (log ? Math.log(x / low) / Math.log(high / low) : (x - low) / (high - low || 1));
const cut = (words, most) => (words.length > most ? `${words.slice(0, most - 12)}…${words.slice(-11)}` : words);

/** Range of y of a lines panel, with room; shared by the panels of a plot where it says so. */
function yRange(panels, log) {
  const all = panels.flatMap((p) => [...p.series.flatMap((s) => [...s.y, ...(s.low || []), ...(s.high || [])]), ...(p.rules || [])]);
  if (log) { const e = extent(all.filter((x) => x > 0)); return e ? [e[0] / 1.2, e[1] * 1.2] : [0.1, 1]; }
  const e = panels[0].range || extent(all);
  if (!e) return [0, 1];
  if (panels[0].range) return e;
  const room = 0.06 * (e[1] - e[0]) || 0.05 * Math.abs(e[1]) || 0.05;
  return [panels[0].zero ? Math.min(0, e[0]) : e[0] - room, e[1] + room];
}

const tickName = (panel) => (x) => (absent(x) ? '' : panel.labels ? (Number.isInteger(x) ? panel.labels[x] ?? '' : '') : String(+x.toPrecision(6)));

function linesChart(plot, panel, box, range) {
  const grid = css('--line'), soft = css('--soft'), percent = plot.percent;
  const series = [{label: plot.x || 'x', value: (u, v) => (absent(v) ? '–' : tickName(panel)(v))}], data = [panel.x], bands = [];
  panel.series.forEach((s, i) => {
    const stroke = colour(s.colour ?? i);
    if (s.low) {
      bands.push({series: [data.length, data.length + 1], fill: `color-mix(in srgb, ${stroke} 20%, transparent)`});
      for (const y of [s.high, s.low]) { series.push({label: '', stroke: 'transparent', points: {show: false}}); data.push(y); }
    }
    series.push({label: s.label || plot.y || 'value', stroke, width: s.strong ? 3 : 1.6, dash: s.dash ? [5, 4] : undefined,
      points: {show: panel.x.length <= 40 && !s.plain, size: 5, fill: stroke}, value: (u, v) => (absent(v) ? '–' : percent ? shown('share', v) : significant(v, 4))});
    data.push(s.y);
  });
  const log = panel.log && range[0] > 0, xs = extent(panel.x) || [0, 1];
  const options = {
    width: Math.max(180, box.clientWidth), height: plot.height || 200, bands, series,
    legend: {show: !plot.quiet, live: true}, cursor: {drag: {x: true, y: false}, sync: plot.sync ? {key: plot.sync} : undefined},
    scales: {x: {time: false, distr: panel.xlog ? 3 : 1, range: panel.xlog ? [xs[0] / 1.04, xs[1] * 1.04] : xs[0] === xs[1] ? [xs[0] - 1, xs[0] + 1] : undefined},
      y: {range, distr: log ? 3 : 1}},
    axes: [{stroke: soft, grid: {stroke: grid, width: 1}, ticks: {stroke: grid}, values: (u, v) => v.map(tickName(panel)),
      incrs: panel.labels ? [1, 2, 5, 10, 20, 50, 100, 200, 500] : undefined,
      splits: panel.xlog ? () => panel.x.filter((_, i) => i % Math.ceil(panel.x.length / 7) === 0) : undefined},
    {stroke: soft, size: 62, grid: {stroke: grid, width: 1}, ticks: {stroke: grid}, splits: () => ticksOf(range, log, 5), values: (u, v) => v.map(number(percent))}],
    hooks: {draw: [(u) => {
      const c = u.ctx, {left, top, width, height} = u.bbox;
      c.save(); c.strokeStyle = soft; c.setLineDash([5, 4]); c.lineWidth = 1; c.beginPath();
      for (const y of panel.rules || []) if (y >= range[0] && y <= range[1]) { const Y = u.valToPos(y, 'y', true); c.moveTo(left, Y); c.lineTo(left + width, Y); }
      for (const x of panel.marks || []) { const X = u.valToPos(x, 'x', true); c.moveTo(X, top); c.lineTo(X, top + height); }
      c.stroke();
      if (panel.cursor !== undefined) { const X = u.valToPos(panel.cursor(), 'x', true); c.setLineDash([]); c.strokeStyle = css('--accent'); c.lineWidth = 2; c.beginPath(); c.moveTo(X, top); c.lineTo(X, top + height); c.stroke(); }
      c.restore();
    }]},
  };
  const chart = new uPlot(options, data, box);
  chart.root.querySelectorAll('.u-legend tr').forEach((row, i) => { if (i && !series[i].label) row.hidden = true; });
  if (plot.quiet) {
    chart.over.addEventListener('pointermove', (event) => {
      const i = chart.cursor.idx;
      tip(event, absent(i) ? '' : [`${panel.title || ''}  ${plot.x || ''} ${tickName(panel)(panel.x[i])}`, ...panel.series.map((s) => `${s.label || plot.y || ''}  ${absent(s.y[i]) ? '–' : percent ? shown('share', s.y[i]) : significant(s.y[i], 4)}`)].join('\n'));
    });
    chart.over.addEventListener('pointerleave', () => tip());
  }
  chart.over.setAttribute('role', 'img');
  chart.over.setAttribute('aria-label', panel.title || plot.title);
  return chart;
}

function drawLines(plot, panel, pen, [left, top, width, height], range) {
  const log = panel.log && range[0] > 0, xs = extent(panel.x) || [0, 1];
  const X = (x) => left + 52 + (width - 62) * (xs[0] === xs[1] ? 0.5 : spot(xs, panel.xlog)(x)), Y = (y) => top + height - 34 - (height - 58) * spot(range, log)(y);
  pen.text(left + 4, top + 10, cut(panel.title || '', 44), {bold: true});
  for (const y of ticksOf(range, log, 5)) {
    pen.path([[left + 52, Y(y)], [left + width - 10, Y(y)]], {stroke: css('--line'), width: 1});
    pen.text(left + 48, Y(y), number(plot.percent)(y), {align: 'right', size: 10, fill: css('--soft')});
  }
  const step = Math.max(1, Math.ceil(panel.x.length / 8));
  const ticks = panel.labels || panel.xlog ? panel.x.filter((_, i) => i % step === 0) : ticksOf(xs, false);
  for (const x of ticks) pen.text(X(x), top + height - 24, tickName(panel)(x), {align: 'center', size: 10, fill: css('--soft')});
  pen.text(left + width / 2, top + height - 9, plot.x || '', {align: 'center', size: 10, fill: css('--soft')});
  const inside = (y) => !absent(y) && (!log || y > 0), clip = (y) => Math.max(range[0], Math.min(range[1], y));
  for (const y of panel.rules || []) pen.path([[left + 52, Y(y)], [left + width - 10, Y(y)]], {stroke: css('--soft'), dash: [5, 4], width: 1});
  panel.series.forEach((s, i) => {
    const stroke = colour(s.colour ?? i);
    if (s.low) {
      const at = panel.x.map((x, j) => j).filter((j) => inside(s.low[j]) && inside(s.high[j])), fill = `${stroke}33`;
      pen.path([...at.map((j) => [X(panel.x[j]), Y(clip(s.high[j]))]), ...at.reverse().map((j) => [X(panel.x[j]), Y(clip(s.low[j]))])], {fill});
    }
    let run = [];
    const flush = () => { if (run.length > 1) pen.path(run, {stroke, width: s.strong ? 2.6 : 1.4, dash: s.dash ? [5, 4] : []}); else if (run.length) pen.dot(...run[0], 2.4, stroke); run = []; };
    panel.x.forEach((x, j) => { if (inside(s.y[j])) run.push([X(x), Y(clip(s.y[j]))]); else flush(); });
    flush();
  });
}

function drawLegend(entries, pen, left, top, width) {
  let x = left, y = top;
  for (const [words, i] of entries) {
    const room = 22 + 6.2 * words.length;
    if (x + room > left + width) { x = left; y += 16; }
    pen.rect(x, y - 5, 10, 10, colour(i));
    pen.text(x + 14, y, words, {size: 10});
    x += room;
  }
  return y + 16 - top;
}

function heatScale(plot, panels) {
  if (plot.scale.high !== undefined) return plot.scale;
  const [low, high] = extent(panels.flatMap((p) => { const a = array(p.values); return Array.from({length: a.shape[0] * a.shape[1]}, (_, i) => a.at(i)); })) || [0, 1];
  if (plot.scale.colours === 'diverging') { const m = Math.max(Math.abs(low), Math.abs(high)) || 1; return {...plot.scale, low: -m, high: m}; }
  return {...plot.scale, low: plot.scale.low ?? Math.min(0, low), high: high || 1};
}

/** A picture of a heat panel with its axes' ends; rows upwards where the plot says so. */
function drawHeat(plot, panel, pen, [left, top, width, height], scale) {
  const a = array(panel.values), [rows, columns] = a.shape;
  const at = (r, c) => (plot.triangle && c > r ? null : a.at((plot.upwards ? rows - 1 - r : r) * columns + c));
  pen.text(left + 4, top + 9, cut(panel.title || '', Math.floor(width / 6)), {size: 11, bold: true});
  const box = [left + 34, top + 20, width - 44, height - 56];
  pen.image(...box, pixels(rows, columns, at, scale));
  const soft = {size: 10, fill: css('--soft')}, name = (labels, i) => (labels ? String(labels[i]) : String(i));
  const topRow = plot.upwards ? rows - 1 : 0, lowRow = plot.upwards ? 0 : rows - 1;
  pen.text(left + 31, box[1] + 5, name(panel.rows, topRow), {...soft, align: 'right'});
  if (rows > 1) pen.text(left + 31, box[1] + box[3] - 5, name(panel.rows, lowRow), {...soft, align: 'right'});
  pen.text(box[0], box[1] + box[3] + 9, name(panel.columns, 0), soft);
  if (columns > 1) pen.text(box[0] + box[2], box[1] + box[3] + 9, name(panel.columns, columns - 1), {...soft, align: 'right'});
  pen.text(box[0] + box[2] / 2, box[1] + box[3] + 9, plot.x || '', {...soft, align: 'center'});
  pen.text(box[0] + box[2] / 2, box[1] + box[3] + 23, plot.y ? `↓ ${plot.y}`.replace('↓', plot.upwards ? '↑' : '↓') : '', {...soft, align: 'center'});
  return {box, rows, columns, at};
}

function drawBar(scale, words, pen, left, top) {
  for (let i = 0; i < 120; i++) {
    const x = scale.log ? scale.low * (scale.high / scale.low) ** (i / 119) : scale.low + (i / 119) * (scale.high - scale.low);
    pen.rect(left + 60 + i, top, 1.5, 9, rgb(colourOf(scale, x)));
  }
  const soft = {size: 10, fill: css('--soft')};
  pen.text(left + 56, top + 5, significant(scale.low), {...soft, align: 'right'});
  pen.text(left + 186, top + 5, `${significant(scale.high)}  ${words || ''}`, soft);
}

/** Rows of dots under headings; each panel has its own x axis. */
function drawDots(plot, pen, panels) {
  const room = 21, label = Math.min(280, pen.width / 2.5, 14 + Math.max(...plot.rows.map((r) => Math.min(40, r.label.length) * (r.heading ? 7.3 : 6.2)))), hits = [];
  const height = plot.rows.length * room, each = (pen.width - label) / panels.length;
  plot.rows.forEach((row, i) => pen.text(label - 6, 18 + (i + 0.5) * room, cut(row.label, 40), {align: 'right', bold: row.heading}));
  panels.forEach((panel, p) => {
    const left = label + p * each + 6, width = each - 22;
    const all = panel.series.flatMap((s) => s.values.flatMap((x, i) => (absent(x) ? [] : [x, x - (s.error?.[i] || 0), x + (s.error?.[i] || 0)])));
    const rules = (panel.rules || []).map(([x]) => x).filter((x) => !absent(x)), positive = [...all, ...rules].filter((x) => x > 0), ends = extent(positive);
    const log = !panel.range && ends && ends[1] > 10 * ends[0] && panel.log !== false;
    let range = panel.range || (log ? [ends[0] / 1.7, ends[1] * 1.7] : extent([0, ...all, ...rules]) || [0, 1]);
    if (!log && !panel.range) range = [range[0], range[1] + (range[1] - range[0]) / 16 || 1];
    const X = (x) => left + width * spot(range, log)(x);
    for (const x of ticksOf(range, log, 5)) {
      pen.path([[X(x), 14], [X(x), 18 + height]], {stroke: css('--line'), width: 1});
      pen.text(X(x), 18 + height + 10, number(panel.percent)(x), {align: 'center', size: 10, fill: css('--soft')});
    }
    pen.text(left + width / 2, 18 + height + 26, panel.title, {align: 'center', size: 11, fill: css('--soft')});
    for (const [x, i] of panel.rules || []) if (!absent(x)) pen.path([[X(x), 14], [X(x), 18 + height]], {stroke: i === null ? css('--soft') : colour(i), dash: [4, 3], width: 1});
    panel.series.forEach((s, k) => s.values.forEach((x, i) => {
      if (plot.rows[i].heading || x === undefined) return;
      const shift = panel.series.length > 1 && plot.spread ? 0.6 * ((k + 0.5) / panel.series.length - 0.5) : 0;
      const y = 18 + (i + 0.5 + shift) * room, fill = colour(s.colours ? s.colours[i] : s.colour ?? k);
      if (absent(x) || (log && x <= 0)) { if (!s.optional && !s.gone?.[i]) pen.text(left + 4, y, absent(x) ? 'not finite' : '0', {size: 10, fill: css('--soft')}); return; }
      if (panel.start !== undefined && !absent(panel.start) && !s.optional) pen.path([[X(panel.start), y], [X(x), y]], {stroke: fill, width: 1.6});
      if (s.error?.[i]) pen.path([[X(Math.max(x - s.error[i], log ? range[0] : -Infinity)), y], [X(x + s.error[i]), y]], {stroke: fill});
      pen.dot(X(x), y, s.optional ? 3.4 : 4.6, s.optional ? null : fill, fill);
      hits.push([X(x), y, `${plot.rows[i].label}${s.label ? `, ${s.label}` : ''}: ${panel.percent ? shown('share', x) : significant(x, 4)}${s.error?.[i] ? ` ± ${significant(s.error[i])}` : ''}`]);
    }));
  });
  return hits;
}

/** Points with both axes logarithmic, and thin lines of equal y / x². */
function drawPoints(plot, pen, [panel]) {
  const points = panel.points.filter((p) => p.x > 0 && p.y > 0), hits = [], xs = extent(points.map((p) => p.x)), ys = extent(points.map((p) => p.y));
  if (!xs) { pen.text(pen.width / 2, pen.height / 2, 'no model has a finite KL and a change above 0', {align: 'center', fill: css('--soft')}); return hits; }
  const rx = [xs[0] / 1.8, xs[1] * 1.8], ry = [ys[0] / 3, ys[1] * 3], left = 70, top = 22, width = pen.width - 130, height = pen.height - 80;
  const X = (x) => left + width * spot(rx, true)(x), Y = (y) => top + height * (1 - spot(ry, true)(y)), soft = {size: 10, fill: css('--soft')};
  for (const x of ticksOf(rx, true)) { pen.path([[X(x), top], [X(x), top + height]], {stroke: css('--line'), width: 1}); pen.text(X(x), top + height + 12, number(true)(x), {...soft, align: 'center'}); }
  for (const y of ticksOf(ry, true)) { pen.path([[left, Y(y)], [left + width, Y(y)]], {stroke: css('--line'), width: 1}); pen.text(left - 6, Y(y), significant(y), {...soft, align: 'right'}); }
  for (let p = Math.ceil(Math.log10(ry[0] / rx[1] ** 2)); p <= Math.log10(ry[1] / rx[0] ** 2); p++) {
    const f = 10 ** p, a = Math.max(rx[0], Math.sqrt(ry[0] / f)), b = Math.min(rx[1], Math.sqrt(ry[1] / f));
    if (a >= b) continue;
    pen.path([[X(a), Y(f * a * a)], [X(b), Y(f * b * b)]], {stroke: css('--soft'), width: 0.5});
    pen.text(b === rx[1] ? left + width + 4 : X(b), b === rx[1] ? Y(f * b * b) : top - 8, String(+f.toPrecision(3)), soft);
  }
  pen.text(left + width / 2, top + height + 30, plot.x, {...soft, align: 'center'});
  pen.text(4, 9, `${plot.y}; thin lines: KL / change²`, soft);
  const taken = points.map((p) => [X(p.x) - 5, Y(p.y), 10]);
  for (const p of points) {
    pen.dot(X(p.x), Y(p.y), 5, colour(p.colour));
    const words = cut(p.label, 26), long = 5.6 * words.length;
    for (const [dx, dy, align] of [[8, 0, 'left'], [-8, 0, 'right'], [8, -11, 'left'], [8, 11, 'left'], [-8, -11, 'right'], [-8, 11, 'right']]) {
      const x = X(p.x) + dx - (align === 'right' ? long : 0), y = Y(p.y) + dy;
      if (taken.some((t) => x < t[0] + t[2] && t[0] < x + long && Math.abs(y - t[1]) < 11)) continue;
      taken.push([x, y, long]);
      pen.text(X(p.x) + dx, y, words, {size: 10, align});
      break;
    }
    hits.push([X(p.x), Y(p.y), `${p.label} (${p.group})\nchange ${shown('share', p.x)}, KL ${significant(p.y)}\nKL / change² ${significant(p.y / p.x ** 2)}`]);
  }
  return hits;
}

function legendOf(plot) {
  const names = new Map();
  for (const panel of plot.panels) {
    (panel.series || []).forEach((s, i) => { if (s.label && s.colour !== null && !s.colours) names.set(s.label, s.colour ?? i); });
    for (const p of panel.points || []) names.set(p.group, p.colour);
  }
  return [...names];
}

/** Puts a plot into its figure. */
function show(figure, plot) {
  const box = figure.querySelector('.panels'), {panels} = plot;
  (figure.charts || []).forEach((chart) => chart.destroy());
  figure.charts = [];
  box.replaceChildren();
  figure.querySelector('.save')?.remove();
  const width = Math.max(280, Math.min(1180, box.clientWidth)), legend = legendOf(plot);
  let size, draw;
  if (plot.kind === 'dots' || plot.kind === 'points') {
    const paint = plot.kind === 'dots' ? (pen) => drawDots(plot, pen, panels) : (pen) => drawPoints(plot, pen, panels);
    const many = plot.kind === 'dots' && width < 560 ? panels.map((p) => [p]) : [panels];
    const height = plot.kind === 'dots' ? plot.rows.length * 21 + 56 : 470;
    for (const some of many) {
      const canvas = el('canvas', {role: 'img', 'aria-label': plot.title}), pen = new CanvasPen(canvas, width, height);
      const hits = plot.kind === 'dots' ? drawDots(plot, pen, some) : paint(pen);
      hover(canvas, (x, y) => { const near = hits.map((h) => [Math.hypot(h[0] - x * width, h[1] - y * height), h[2]]).sort((a, b) => a[0] - b[0])[0]; return near && near[0] < 14 ? near[1] : ''; });
      box.append(canvas);
    }
    size = () => [Math.max(760, width), height + 40];
    draw = (pen) => { paint(pen); drawLegend(legend, pen, 10, height + 8, pen.width - 20); };
  } else {
    const lines = plot.kind === 'lines';
    const across = Math.max(1, Math.min(panels.length, Math.floor(width / (lines ? 270 : plot.wide || 180)), plot.columns || 9));
    box.style.gridTemplateColumns = `repeat(${across}, minmax(0, 1fr))`;
    const shared = lines && plot.shared ? yRange(panels, panels.every((p) => p.log)) : null;
    const ranges = lines ? panels.map((p) => shared || yRange([p], p.log)) : [];
    const some = {...plot, quiet: panels.length > 1};
    const scale = lines ? null : heatScale(plot, panels), w = lines ? 300 : 200, h = lines ? 210 : plot.square ? 236 : 190;
    panels.forEach((panel, i) => {
      const cell = el('div', {class: 'panel'});
      box.append(cell);
      if (lines) {
        cell.append(el('div', {class: 'panel-title'}, panel.title || ''));
        figure.charts.push(linesChart(some, panel, cell, ranges[i]));
        return;
      }
      const cw = Math.min(plot.square ? 300 : 480, Math.floor(width / across) - 8), ch = plot.square ? cw + 32 : 190;
      const canvas = el('canvas', {role: 'img', 'aria-label': `${plot.title}: ${panel.title || ''}`});
      cell.append(canvas);
      const {box: [x0, y0, bw, bh], rows, columns, at} = drawHeat(plot, panel, new CanvasPen(canvas, cw, ch), [0, 0, cw, ch], scale);
      hover(canvas, (x, y) => {
        const c = Math.floor(((x * cw - x0) / bw) * columns), r = Math.floor(((y * ch - y0) / bh) * rows);
        if (c < 0 || r < 0 || c >= columns || r >= rows) return '';
        const row = plot.upwards ? rows - 1 - r : r, v = at(r, c);
        return v === null ? '' : `${panel.title || ''}\n${plot.y || 'row'} ${panel.rows ? panel.rows[row] : row}, ${plot.x || 'column'} ${panel.columns ? panel.columns[c] : c}: ${significant(v, 4)}`;
      });
    });
    if (!lines) { const bar = el('canvas', {'aria-hidden': 'true'}); box.append(el('div', {class: 'bar'}, bar)); drawBar(scale, plot.scale.label, new CanvasPen(bar, 480, 16), 0, 3); }
    const columns = Math.min(4, panels.length), lineCount = Math.ceil(panels.length / columns);
    size = () => [Math.max(columns * w, 420), lineCount * h + 60];
    draw = (pen) => {
      panels.forEach((panel, i) => {
        const place = [(i % columns) * w, Math.floor(i / columns) * h, w, h];
        if (lines) drawLines(plot, panel, pen, place, ranges[i]); else drawHeat(plot, panel, pen, place, scale);
      });
      if (lines) drawLegend(legend, pen, 10, lineCount * h + 14, pen.width - 20); else drawBar(scale, plot.scale.label, pen, 0, lineCount * h + 14);
    };
  }
  if ((plot.kind !== 'lines' && legend.length > 1) || (plot.kind === 'lines' && panels.length > 1 && legend.length)) box.append(el('div', {class: 'legend'}, ...legend.map(([words, i]) => { const mark = el('i'); mark.style.background = colour(i); return el('span', {}, mark, words); })));
  (figure.querySelector('.title') || figure).append(exporters(plot.name, size, draw));
}
