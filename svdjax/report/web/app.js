'use strict';
// The page: what is chosen (pair, matrix, measure), and the views that follow it.

const state = {pair: 0, beside: '', group: 0, layer: 0, by: 'nf_over_unrelated', range: 10};
const pairOf = (p = state.pair) => META.pairs[p];
const columnsOf = (pair) => pair.columns;
const column = (pair, key) => pair.columns.find((c) => c.key === key);
const valueOf = (pair, key, g, i) => column(pair, key)?.values[g]?.[i] ?? null;
/** Pairs whose figures are shown: the chosen one, one beside it, or all. */
function shownPairs() {
  if (state.beside === 'all') return META.pairs.map((_, i) => i).filter((i) => META.pairs[i].groups.length);
  const q = META.pairs.findIndex((pair) => pair.name === state.beside);
  return q >= 0 && q !== state.pair ? [state.pair, q] : [state.pair];
}
/** At most two pairs stand side by side where each takes half of the page. */
const sides = () => (state.beside === 'all' ? [state.pair] : shownPairs());
const groupName = () => pairOf().groups[state.group]?.name;
/** The place of the chosen matrix in another pair. */
function placeIn(pair) {
  const own = pairOf().groups[state.group];
  const g = pair.groups.findIndex((group) => own && group.name === own.name);
  const i = g < 0 ? -1 : pair.groups[g].layers.indexOf(own.layers[state.layer]);
  return i < 0 ? null : [g, i];
}
const matrixName = (group, i) => (group.members ? group.members[i] : `${group.name}, ${wordsOf(group, i)}`);

// ---- first screen ------------------------------------------------------------------------------
function cards() {
  const box = byId('cards');
  box.replaceChildren(...pairOf().verdicts.map((verdict) => {
    const card = el('div', {class: 'card', 'data-key': verdict.key}, el('span', {class: 'soft'}, verdict.question),
      el('b', {class: verdict.tone}, verdict.answer), el('span', {class: 'soft'}, verdict.detail));
    for (const [projection, layer, words] of verdict.matrices) {
      card.append(el('button', {type: 'button', class: 'jump', onclick: () => {
        const place = findMatrix(pairOf(), projection, layer);
        if (place) { select(...place); byId('selected').scrollIntoView({block: 'nearest'}); }
      }}, words));
    }
    return card;
  }));
  const pair = pairOf();
  byId('who').replaceChildren(el('code', {}, pair.base), ' → ', el('code', {}, pair.post), ` · ${pair.family} · ${pair.count} matrices`);
}

function findMatrix(pair, projection, matrix) {
  for (let g = 0; g < pair.groups.length; g++) {
    const group = pair.groups[g];
    if (group.members) { const i = group.members.indexOf(projection); if (i >= 0) return [g, i]; }
    else if (group.name === projection && matrix < group.layers.length) return [g, matrix];
  }
  return null;
}

// ---- the map of all matrices -------------------------------------------------------------------
function mapScale(key) {
  const drawn = shownPairs().map(pairOf).map((pair) => column(pair, key)).filter(Boolean), first = drawn[0];
  if (!first) return null;
  const range = (shownPairs().some((p) => pairOf(p).groups.some((g) => g.experts)) ? bulk : extent)(drawn.flatMap((c) => c.values.flat())) || [0, 1];
  if (first.colours !== 'diverging') return {colours: 'sequential', low: range[0], high: range[1]};
  const half = Math.max(Math.abs(range[0] - first.middle), Math.abs(range[1] - first.middle)) || 1e-6;
  return {colours: 'diverging', low: first.middle - half, high: first.middle + half};
}
function drawMap(pen, p, scale) {
  const pair = pairOf(p), {deep, height: bottom} = layout(pair), cell = (pen.width - MAP.left - 6) / deep, soft = {size: 10, fill: css('--soft')};
  pair.groups.forEach((group, g) => {
    const values = column(pair, state.by).values[g] || [];
    pen.text(MAP.left - 6, group.top + (group.experts ? 10 : group.tall / 2), cut(group.experts ? group.name.replace(/^experts\./, '') : group.name, 15), {align: 'right'});
    if (group.experts) {
      pen.text(MAP.left - 6, group.top + 24, cut(expertsOf(group), 16), {...soft, align: 'right'});
      drawExperts(pen, group, values, scale, cell);
    } else group.layers.forEach((_, i) => pen.rect(MAP.left + group.columns[i] * cell, group.top + 1, Math.max(1, cell - (cell > 5 ? 1 : 0)), group.tall - 2, rgb(colourOf(scale, values[i] ?? null))));
  });
  const step = Math.max(1, Math.ceil(deep / Math.max(1, Math.floor((pen.width - MAP.left) / 30)))), labels = columnLabels(pair);
  for (let i = 0; i < deep; i += step) if (labels.has(i)) pen.text(MAP.left + (i + 0.5) * cell, bottom + 8, labels.get(i), {...soft, align: 'center'});
  drawBar(scale, column(pair, state.by).label, pen, MAP.left - 60, bottom + 20);
  return cell;
}
function maps() {
  const box = byId('maps'), list = sides(), scale = mapScale(state.by);
  box.replaceChildren();
  box.style.gridTemplateColumns = `repeat(${innerWidth < 700 ? 1 : list.length}, minmax(0, 1fr))`;
  for (const p of list) {
    const pair = pairOf(p), width = Math.max(240, Math.floor((box.clientWidth - 12) / (innerWidth < 700 ? 1 : list.length))), height = layout(pair).height + 34;
    const canvas = el('canvas', {}), mark = el('i', {class: 'mark'});
    const frame = el('div', {class: 'map', tabindex: 0, role: 'application', 'aria-roledescription': 'map of matrices',
      'aria-label': `${pair.name}: projections by layers, coloured by ${column(pair, state.by)?.label}; arrow keys select`}, canvas, mark);
    frame.style.maxWidth = `${width}px`;
    box.append(el('div', {}, list.length > 1 ? el('div', {class: 'panel-title'}, pair.name) : '', frame));
    if (!scale || !column(pair, state.by)) { frame.replaceChildren(el('p', {class: 'soft'}, 'not measured for this pair')); continue; }
    const cell = drawMap(new CanvasPen(canvas, width, height), p, scale);
    const at = (x, y) => placeAt(pair, Math.floor((x * width - MAP.left) / cell), y * height);
    hover(canvas, (x, y) => { const place = at(x, y); return place ? facts(pair, ...place) : ''; });
    canvas.onclick = (event) => { const b = canvas.getBoundingClientRect(), place = at((event.clientX - b.left) / b.width, (event.clientY - b.top) / b.height); if (place) selectIn(p, place); };
    frame.onkeydown = (event) => {
      const move = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -1e9], End: [0, 1e9]}[event.key];
      if (!move) return;
      event.preventDefault();
      selectIn(p, moved(pair, placeIn(pair) || [0, 0], move));
    };
    frame.place = () => {
      const place = placeIn(pair);
      mark.hidden = !place;
      if (!place) return;
      const group = pair.groups[place[0]], each = eachOf(group), inner = group.experts ? (group.tall - 2) / each : group.tall;
      const top = group.top + (group.experts ? 1 + (place[1] % each) * inner : 0);
      mark.style.cssText = `left:${(100 * (MAP.left + group.columns[Math.floor(place[1] / each)] * cell)) / width}%;top:${(100 * top) / height}%;width:${(100 * Math.max(cell, 4)) / width}%;height:${(100 * Math.max(inner, 3)) / height}%`;
    };
  }
  byId('mapSave').replaceChildren(scale ? exporters(`${pairOf().name}-${state.by}`, () => [720, layout(pairOf()).height + 40], (pen) => drawMap(pen, state.pair, scale)) : '');
}
const facts = (pair, g, i) => [matrixName(pair.groups[g], i), ...columnsOf(pair).filter((c) => c.colours).map((c) => `${c.label}  ${shown(c.format, c.values[g][i])}`)].join('\n');
function selectIn(p, [g, i]) {
  const group = pairOf(p).groups[g];
  if (p === state.pair) return select(g, i);
  const own = pairOf().groups.findIndex((x) => x.name === group.name), j = own < 0 ? -1 : pairOf().groups[own].layers.indexOf(group.layers[i]);
  return j < 0 ? null : select(own, j);
}

// ---- the selected matrix -----------------------------------------------------------------------
const SIDES = [];
function side(p) {
  const box = el('div', {class: 'side'}), charts = {};
  const title = el('div', {class: 'panel-title'}), numbers = el('dl', {class: 'numbers'}), spectrum = el('div', {class: 'spectrum'}), ratio = el('div', {class: 'ratio'}), corners = el('div', {class: 'corners'});
  box.append(title, numbers, el('h3', {}, 'Spectrum'), spectrum, el('h3', {}, 'σ post / σ base'), ratio, el('h3', {}, 'Corners of the singular vectors'), corners);
  return {p, box, title, numbers, spectrum, ratio, corners, charts};
}
function curve(reference, i) {
  const a = array(reference), n = a.shape[1];
  return Array.from({length: n}, (_, j) => a.at(i * n + j));
}
const finite = (x) => (Number.isFinite(x) ? x : null);
/** Spectrum and scaling of a matrix; of one whose curves are not on the page, its layer's experts. */
function spectraOf(pair, g, matrix) {
  const group = pair.groups[g], i = rowIn(group, matrix);
  if (i < 0) return [null, group.middle ? expertsPanel(group, matrix) : null];
  const base = curve(group.base, i), ratio = curve(group.ratio, i), n = base.length;
  const x = base.map((_, j) => Math.round(((j + 0.5) * group.rank) / n - 0.5)), top = Math.ceil(0.9 * n);
  const r = ratio.map((v) => finite(2 ** v));
  const spectrum = {title: 'spectrum', x, log: true, marks: [0.9 * group.rank - 0.5],
    series: [{label: 'σ base', y: base.map((v) => finite(2 ** v)), colour: 0, plain: true}, {label: 'σ post', y: base.map((v, j) => finite(2 ** (v + ratio[j]))), colour: 1, dash: true, plain: true}]};
  const line = {label: 'measured', y: r, colour: 2, plain: true}, series = [line];
  if (group.null_mean) {
    const mean = curve(group.null_mean, i).map(finite), std = curve(group.null_std, i).map(finite);
    if (mean.some((v) => v !== null)) series.unshift({label: 'random signs, mean ± 2 std', y: mean, low: mean.map((m, j) => (m === null ? null : m - 2 * std[j])), high: mean.map((m, j) => (m === null ? null : m + 2 * std[j])), colour: 1, plain: true});
  }
  if (group.middle) series.unshift(...expertsPanel(group, matrix).series);
  const near = extent([1, ...series.flatMap((s) => [s.y, s.low || [], s.high || []]).flatMap((y) => y.slice(0, top))]), room = 0.08 * (near[1] - near[0]) || 0.01;
  return [spectrum, {title: 'σ post / σ base', x, series, rules: [1], marks: [0.9 * group.rank - 0.5], range: [near[0] - room, near[1] + room]}];
}
function detail(view) {
  const pair = pairOf(view.p), place = placeIn(pair);
  view.box.classList.toggle('none', !place);
  view.title.textContent = `${pair.name}: ${place ? matrixName(pair.groups[place[0]], place[1]) : 'no such matrix'}`;
  if (!place) return;
  const [g, i] = place, group = pair.groups[g];
  view.numbers.replaceChildren(...[['in × out', group.shape.join(' × ')], ...columnsOf(pair).map((c) => [c.label, shown(c.format, c.values[g]?.[i]), c.help])].flatMap(([name, words, help]) => [el('div', {title: help || null}, el('dt', {}, name), el('dd', {}, words))]));
  const panels = spectraOf(pair, g, i), plots = [{name: 'spectrum', title: 'Spectrum', x: 'index', height: 190, sync: 'index', percent: false}, {name: 'ratio', title: 'σ post / σ base', x: 'index', height: 170, sync: 'index'}];
  panels.forEach((panel, k) => {
    const name = plots[k].name, range = panel && (panel.range || yRange([panel], panel.log));
    // An axis keeps its splits, so another range makes another chart; it takes a few milliseconds.
    view.charts[name]?.destroy();
    delete view.charts[name];
    view[name].replaceChildren(...(panel ? [] : [el('p', {class: 'soft'}, 'not on this page: see vectors.npz')]));
    view[name].draw = null;
    if (!panel) return;
    view.charts[name] = linesChart(plots[k], panel, view[name], range);
    view[name].draw = [plots[k], panel, range];
  });
  corners(view, pair, group, i);
}
function corners(view, pair, group, matrix) {
  const i = rowIn(group, matrix);
  view.corners.replaceChildren(...(i < 0 ? [el('p', {class: 'soft'}, 'not on this page: see vectors.npz')] : []));
  if (!group.sim_u || i < 0) return;
  const u = array(group.sim_u), v = array(group.sim_v), o = array(group.i_orth), n = u.shape[1], start = i * n * n;
  const unit = {colours: 'sequential', low: 0, high: 1}, signed = {colours: 'diverging', low: -1, high: 1};
  const list = [['sim U', (k) => u.at(start + k), unit], ['sim V', (k) => v.at(start + k), unit], ['|sim U − sim V|', (k) => Math.abs(u.at(start + k) - v.at(start + k)), unit], ['I_orth = Q1ᵀ Q2', (k) => o.at(start + k), signed]];
  const base = group.clustered_base && array(group.clustered_base), post = group.clustered_post && array(group.clustered_post);
  for (const [name, value, scale] of list) {
    const canvas = pixels(n, n, (r, c) => value(r * n + c), scale);
    canvas.setAttribute('role', 'img');
    canvas.setAttribute('aria-label', `${name}, leading ${n} × ${n} corner`);
    hover(canvas, (x, y) => { const r = Math.min(n - 1, Math.floor(y * n)), c = Math.min(n - 1, Math.floor(x * n)); return `${name} [${r}, ${c}] = ${significant(value(r * n + c))}`; });
    const draw = (pen) => { pen.text(6, 10, `${matrixName(group, matrix)}: ${name}`, {bold: true}); pen.image(10, 22, 300, 300, canvas); drawBar(scale, '', pen, -30, 330); };
    const cell = el('figure', {}, el('figcaption', {}, name, exporters(`${pair.name}-${name}`, () => [330, 350], draw)), el('div', {class: 'frame'}, canvas));
    const rows = (name.startsWith('I_') ? post : base);
    if (rows && post) for (const [axis, a] of [['row', rows], ['column', post]]) for (let k = 0; k < n; k++) if (a.at(i * n + k) > 0.5) { const m = el('i', {class: `clustered ${axis}`, title: 'singular value equal to another within its error: its vector is arbitrary'}); m.style.setProperty('--at', k / n); m.style.setProperty('--one', 1 / n); cell.lastChild.append(m); }
    view.corners.append(cell);
  }
}
function details() {
  const box = byId('detail'), list = sides();
  if (SIDES.length !== list.length || SIDES.some((view, k) => view.p !== list[k])) {
    SIDES.forEach((view) => Object.values(view.charts).forEach((chart) => chart.destroy()));
    SIDES.splice(0, SIDES.length, ...list.map(side));
    box.replaceChildren(...SIDES.map((view) => view.box));
    box.style.gridTemplateColumns = `repeat(${innerWidth < 700 ? 1 : list.length}, minmax(0, 1fr))`;
    for (const view of SIDES) for (const name of ['spectrum', 'ratio']) view[name].previousSibling.append(exporters(`${pairOf(view.p).name}-${name}`, () => [560, 300], (pen) => { if (!view[name].draw) return; const [plot, panel, range] = view[name].draw; drawLines(plot, panel, pen, [0, 0, 560, 270], range); drawLegend(panel.series.map((s) => [s.label, s.colour]), pen, 60, 282, 480); }));
  }
  SIDES.forEach(detail);
  const place = pairOf().groups[state.group];
  byId('selected').querySelector('h2 span').textContent = place ? matrixName(place, state.layer) : '';
}

// ---- figures 2, 3b, 8, 9 -----------------------------------------------------------------------
function heatmaps() {
  const box = byId('svsm'), limit = state.range / 100, scale = {colours: 'diverging', low: 1 - limit, high: 1 + limit};
  box.replaceChildren();
  byId('rangeValue').textContent = `± ${state.range} %`;
  byId('svsmNote').hidden = !shownPairs().some((p) => pairOf(p).groups.some((group) => group.experts));
  for (const p of shownPairs()) {
    const pair = pairOf(p), row = el('div', {class: 'row'});
    if (shownPairs().length > 1) box.append(el('div', {class: 'panel-title'}, pair.name));
    box.append(row);
    pair.groups.forEach((group, g) => {
      const a = array(group.middle || group.ratio), [layers, n] = a.shape, value = (r, c) => 2 ** a.at(c * n + r);
      const named = (c) => (group.experts ? `${group.name}, layer ${group.depth[c]}, median of ${eachOf(group)} experts` : matrixName(group, matrixAt(group, c)));
      const canvas = pixels(n, layers, value, scale);
      canvas.setAttribute('role', 'img');
      canvas.setAttribute('aria-label', `σ post / σ base of ${group.name}: layers across, singular values downwards`);
      const at = (x, y) => [Math.min(n - 1, Math.floor(y * n)), Math.min(layers - 1, Math.floor(x * layers))];
      hover(canvas, (x, y) => { const [r, c] = at(x, y); return `${named(c)}, index ${Math.round((r * group.rank) / n)}${r >= 0.9 * n ? ', below the top 90 %' : ''}\nσ post / σ base ${significant(value(r, c), 4)}`; });
      canvas.onclick = (event) => { const b = canvas.getBoundingClientRect(); selectIn(p, [g, matrixAt(group, at((event.clientX - b.left) / b.width, 0)[1])]); };
      row.append(el('figure', {}, el('figcaption', {}, group.name, ' ', el('span', {class: 'soft'}, significant(group.alpha_mean, 4))), el('div', {class: 'heat'}, canvas, el('i', {class: 'ninety', 'aria-hidden': 'true'}))));
    });
  }
  const bar = el('canvas', {'aria-hidden': 'true'});
  box.append(bar);
  drawBar(scale, 'σ post / σ base', new CanvasPen(bar, 360, 16), 0, 3);
  const widest = Math.max(1, ...shownPairs().map((p) => pairOf(p).groups.length)), across = Math.min(7, widest), lines = Math.ceil(widest / across);
  byId('svsmSave').replaceChildren(exporters('scaling', () => [across * 160, shownPairs().length * (lines * 170 + 20) + 30], (pen) => {
    shownPairs().forEach((p, k) => {
      const top = k * (lines * 170 + 20);
      pen.text(4, top + 10, pairOf(p).name, {bold: true});
      pairOf(p).groups.forEach((group, g) => {
        const a = array(group.middle || group.ratio), [layers, n] = a.shape, x = (g % across) * 160, y = top + 20 + Math.floor(g / across) * 170;
        pen.text(x + 4, y + 8, cut(group.name, 24));
        pen.image(x + 4, y + 18, 150, 144, pixels(n, layers, (r, c) => 2 ** a.at(c * n + r), scale));
        pen.path([[x + 4, y + 18 + 0.9 * 144], [x + 154, y + 18 + 0.9 * 144]], {stroke: '#111', dash: [4, 3], width: 0.8});
      });
    });
    drawBar(scale, 'σ post / σ base', pen, 0, pen.height - 18);
  }));
}
const MOST_PANELS = 24;
function perLayer() {
  const list = shownPairs(), several = list.length > 1, depth = new Map();
  for (const p of list) for (const group of pairOf(p).groups) depth.set(group.name, Math.max(group.depth.length, depth.get(group.name) || 0));
  // Of the many tensors of an unknown architecture the deepest; the map and the table have all.
  const deepest = [...depth].sort((a, b) => b[1] - a[1]).slice(0, MOST_PANELS).map(([name]) => name), names = [...depth.keys()].filter((name) => deepest.includes(name));
  const few = names.length < depth.size ? `The ${names.length} deepest of ${depth.size} groups of matrices. ` : '', mixed = list.some((p) => pairOf(p).groups.some((group) => group.experts));
  byId('panelsNote').textContent = `${few}${mixed ? 'Of experts: the median of a layer, and from 10 to 90 % of them.' : ''}`;
  const panelsOf = (make) => names.map((name) => {
    const series = [], rules = [];
    let labels = [];
    list.forEach((p, k) => {
      const pair = pairOf(p), g = pair.groups.findIndex((group) => group.name === name);
      if (g < 0) return;
      if (pair.groups[g].depth.length > labels.length) labels = pair.groups[g].depth;
      series.push({label: several ? pair.name : '', colour: several ? k : 0, ...byLayer(pair.groups[g], make(pair, g, rules))});
    });
    const pad = (y) => [...y, ...Array(labels.length - y.length).fill(null)];
    for (const s of series) for (const key of ['y', 'low', 'high']) if (s[key]) s[key] = pad(s[key]);
    return {title: name, labels, x: labels.map((_, i) => i), series, rules: [...new Set(rules)], name,
      cursor: () => (pairOf().groups[state.group]?.name === name ? labels.indexOf(layerOf(pairOf().groups[state.group], state.layer)) : -9)};
  });
  const values = (pair, key, g) => column(pair, key)?.values[g] || [];
  const shared = {kind: 'lines', x: 'layer', shared: true, height: 170};
  show(byId('bands'), {...shared, name: 'bands', title: 'Scaling per layer (fig. 8)', y: 'σ post / σ base', panels: panelsOf((pair, g, rules) => {
    const mean = values(pair, 'alpha_mean', g), std = values(pair, 'alpha_std', g);
    rules.push(1);
    return {y: mean, low: mean.map((m, i) => (m === null ? null : m - std[i])), high: mean.map((m, i) => (m === null ? null : m + std[i]))};
  })});
  show(byId('nf'), {...shared, shared: false, name: 'nf', title: 'NF per layer (figs. 3b, 9)', y: 'NF', panels: panelsOf((pair, g, rules) => {
    rules.push(pair.groups[g].unrelated);
    const rank = values(pair, 'nf_rank', g);
    return {y: values(pair, 'nf', g).map((v, i) => v ?? rank[i] ?? null)};
  }).map((panel) => ({...panel, zero: true}))});
  const every = panelsOf((pair, g) => ({y: values(pair, 'nf_over_unrelated', g)})), all = every.flatMap((panel) => panel.series.flatMap((s) => s.y)).filter((v) => v !== null);
  const ends = extent(all), log = Boolean(ends && ends[0] > 0 && ends[1] > 10 * ends[0] && ends[1] < 1e9 * ends[0]);
  let panels = every.map((panel) => ({...panel, log, zero: !log, rules: [1]}));
  if (!several && names.length <= 12 && new Set(every.map((panel) => panel.labels.join())).size === 1) {
    // One pair: its projections in one panel, comparable across shapes.
    panels = [{...panels[0], title: 'all projections', series: every.map((panel, k) => ({...panel.series[0], label: panel.name, colour: k})), cursor: () => Math.floor(state.layer / eachOf(pairOf().groups[state.group]))}];
  }
  show(byId('share'), {...shared, percent: true, name: 'share', title: 'NF / unrelated', y: 'NF / NF unrelated', height: panels.length === 1 ? 240 : 170, panels});
  for (const id of ['bands', 'nf', 'share']) byId(id).charts.forEach((chart, k) => {
    chart.over.addEventListener('click', () => {
      const name = id === 'share' && panels.length === 1 ? groupName() : names[k], g = pairOf().groups.findIndex((group) => group.name === name);
      if (g >= 0 && chart.cursor.idx !== null && chart.cursor.idx < pairOf().groups[g].depth.length) select(g, matrixAt(pairOf().groups[g], chart.cursor.idx));
    });
  });
}
const redraw = () => ['bands', 'nf', 'share'].forEach((id) => (byId(id).charts || []).forEach((chart) => chart.redraw(false)));

// ---- choosing ----------------------------------------------------------------------------------
function address() {
  const group = pairOf().groups[state.group], query = new URLSearchParams({pair: pairOf().name});
  if (group) query.set('matrix', group.members ? group.members[state.layer] : `${group.name}.${group.layers[state.layer]}`);
  query.set('by', state.by);
  if (state.beside) query.set('beside', state.beside);
  history.replaceState(null, '', `#${query}`);
}
function fromAddress() {
  const query = new URLSearchParams(location.hash.slice(1)), p = META.pairs.findIndex((pair) => pair.name === query.get('pair'));
  if (p >= 0) state.pair = p;
  const by = query.get('by'), beside = query.get('beside'), matrix = query.get('matrix') || '';
  if (column(pairOf(), by)?.colours) state.by = by;
  if (beside === 'all' || META.pairs.some((pair) => pair.name === beside)) state.beside = beside;
  const pair = pairOf();
  for (let g = 0; g < pair.groups.length; g++) {
    const {members, layers, name} = pair.groups[g], i = members ? members.indexOf(matrix) : matrix.startsWith(`${name}.`) ? layers.indexOf(matrix.slice(name.length + 1)) : -1;
    if (i >= 0) Object.assign(state, {group: g, layer: i});
  }
}
function select(g, i) {
  const start = performance.now(), group = pairOf().groups[g];
  if (!group) return;
  Object.assign(state, {group: g, layer: Math.max(0, Math.min(i, group.layers.length - 1))});
  document.querySelectorAll('.map').forEach((map) => map.place?.());
  details();
  redraw();
  markRow();
  address();
  window.lastSelection = performance.now() - start;
}
function everything() {
  const pair = pairOf(), measures = columnsOf(pair).filter((c) => c.colours);
  if (!measures.some((c) => c.key === state.by) && measures.length) state.by = measures[0].key;
  const named = groupName();
  if (state.group >= pair.groups.length || named === undefined) Object.assign(state, {group: 0, layer: 0});
  document.querySelectorAll('#pairs [role=tab]').forEach((tab, k) => { tab.setAttribute('aria-selected', k === state.pair); tab.tabIndex = k === state.pair ? 0 : -1; });
  byId('by').replaceChildren(...measures.map((c) => el('option', {value: c.key, selected: c.key === state.by}, c.label)));
  byId('beside').replaceChildren(el('option', {value: ''}, 'nothing'), ...META.pairs.map((p, k) => (k === state.pair ? '' : el('option', {value: p.name, selected: p.name === state.beside}, p.name))), META.pairs.length > 2 ? el('option', {value: 'all', selected: state.beside === 'all'}, 'all pairs') : '');
  document.querySelectorAll('article.pair').forEach((article) => { article.hidden = article.id !== `pair-${state.pair}`; });
  byId('interactive').hidden = !pair.groups.length;
  byId('curvesNote').textContent = pair.note || '';
  cards();
  if (pair.groups.length) { maps(); heatmaps(); perLayer(); table(); select(state.group, state.layer); }
  articlePlots();
  address();
  slider();
}
/** Draws the plots of the articles that are shown, when they come near the screen. */
const watcher = new IntersectionObserver((entries) => entries.forEach((entry) => {
  if (entry.isIntersecting) { watcher.unobserve(entry.target); show(entry.target, META.plots[entry.target.dataset.plot]); }
}), {rootMargin: '400px'});
function articlePlots() {
  document.querySelectorAll('figure[data-plot]').forEach((figure) => { watcher.unobserve(figure); watcher.observe(figure); });
}
function drawAll() {
  document.querySelectorAll('article:not([hidden]) figure[data-plot]').forEach((figure) => show(figure, META.plots[figure.dataset.plot]));
}
function choosePair(p) {
  const old = pairOf().groups[state.group], layer = old?.layers[state.layer];
  state.pair = p;
  const g = pairOf().groups.findIndex((group) => group.name === old?.name);
  Object.assign(state, {group: Math.max(0, g), layer: Math.max(0, g < 0 ? 0 : pairOf().groups[g].layers.indexOf(layer))});
  if (state.beside === pairOf().name) state.beside = '';
  everything();
}
function slider() {
  const {trajectory} = META, box = byId('trajectory-slider');
  if (!box || !trajectory) return;
  const input = box.querySelector('input'), at = trajectory.pairs.indexOf(pairOf().name);
  input.max = trajectory.pairs.length - 1;
  if (at >= 0) input.value = at;
  box.querySelector('output').textContent = at >= 0 ? trajectory.labels[at] : '–';
  input.oninput = () => { const p = META.pairs.findIndex((pair) => pair.name === trajectory.pairs[+input.value]); if (p >= 0) choosePair(p); };
}

(async () => {
  const start = performance.now();
  META = JSON.parse(new TextDecoder().decode(await inflate('meta')));
  BUFFER = await inflate('data');
  META.pairs.forEach(prepare);
  document.documentElement.classList.add('ready');
  if (META.pairs.length) {
    byId('pairs').append(...META.pairs.map((pair, k) => el('button', {type: 'button', role: 'tab', id: `tab-${k}`, 'aria-controls': 'view', onclick: () => choosePair(k)}, pair.name)));
    byId('pairs').onkeydown = (event) => {
      const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (step) { choosePair((state.pair + step + META.pairs.length) % META.pairs.length); byId(`tab-${state.pair}`).focus(); }
    };
    fromAddress();
    byId('by').onchange = (event) => { state.by = event.target.value; maps(); select(state.group, state.layer); };
    byId('beside').onchange = (event) => { state.beside = event.target.value; everything(); };
    byId('range').oninput = (event) => { state.range = +event.target.value; heatmaps(); };
    state.range = META.range;
    byId('range').value = META.range;
    tableEvents();
    everything();
    addEventListener('hashchange', () => { if (location.hash.startsWith('#pair=')) { fromAddress(); everything(); } });
  }
  answers();
  byId('link').onclick = () => navigator.clipboard?.writeText(location.href).then(() => { byId('link').textContent = 'Copied'; setTimeout(() => { byId('link').textContent = 'Copy link'; }, 1200); });
  byId('theme').onclick = () => {
    const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
    root.dataset.theme = dark ? 'light' : 'dark';
    if (META.pairs.length) everything();
  };
  let timer, width = innerWidth;
  addEventListener('resize', () => { clearTimeout(timer); timer = setTimeout(() => { if (META.pairs.length && width !== innerWidth) { width = innerWidth; SIDES.splice(0); everything(); } }, 150); });
  addEventListener('beforeprint', () => { drawAll(); wholeTable(); });
  addEventListener('afterprint', () => { if (META.pairs.length && pairOf().groups.length) table(); });
  window.ready = performance.now() - start;
})();
