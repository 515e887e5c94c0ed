'use strict';
// Matrices of a pair by layer and expert: their labels, their places on the map, what is shown of a
// layer's experts together. Of dense projections a layer is a matrix.

const MAP = {left: 104, row: 24, low: 48, high: 256, deepest: 4096};
const eachOf = (group) => (group?.experts ? group.experts.length : 1);
const layerOf = (group, i) => group.depth[Math.floor(i / eachOf(group))];
const wordsOf = (group, i) => `layer ${layerOf(group, i)}${group.experts ? `, expert ${group.experts[i % eachOf(group)]}` : ''}`;
/** Which experts the rows of a map are: from the first to the last, or how many were chosen. */
function expertsOf({experts}) {
  const [first, last] = [experts[0], experts.at(-1)];
  return Number(last) - Number(first) === experts.length - 1 ? `experts ${first}–${last}` : `${experts.length} experts`;
}
/** Row of the arrays that has a matrix's curves; -1 where they are not on the page. */
const rowIn = (group, i) => (group.chosen ? group.chosen.indexOf(i) : i);
/** The matrix behind a column of a picture by layers: of experts the one that is chosen, or the first. */
function matrixAt(group, c) {
  if (!group.experts) return group.chosen ? group.chosen[c] : c;
  return c * eachOf(group) + (pairOf().groups[state.group]?.name === group.name ? state.layer % eachOf(group) : 0);
}

/** Labels of all matrices, and columns of the layers: as numbered in the model, tensors as they come. */
function prepare(pair) {
  for (const group of pair.groups) {
    group.depth = group.layers;
    // Names are untrusted: what is numbered beyond all depth gets columns in order.
    const numbered = !group.members && group.depth.every((label) => Number(label) < MAP.deepest);
    group.columns = group.depth.map((label, i) => (numbered ? Number(label) : i));
    if (group.experts) group.layers = group.depth.flatMap((layer) => group.experts.map((expert) => `${layer}.${expert}`));
  }
}

/** Rows of the map, one for a projection and one for every expert; their tops and heights in all. */
function layout(pair) {
  let top = 0, deep = 1;
  for (const group of pair.groups) {
    group.top = top;
    group.tall = group.experts ? Math.max(MAP.low, Math.min(MAP.high, 5 * eachOf(group))) : MAP.row;
    top += group.tall + (group.experts ? 4 : 0);
    for (const c of group.columns) if (c >= deep) deep = c + 1;
  }
  return {height: top, deep};
}
function columnLabels(pair) {
  const labels = new Map();
  for (const group of [...pair.groups].sort((a, b) => b.depth.length - a.depth.length)) group.columns.forEach((c, i) => { if (!labels.has(c)) labels.set(c, group.depth[i]); });
  return labels;
}
function drawExperts(pen, group, values, scale, cell) {
  const each = eachOf(group), first = Math.min(...group.columns), wide = Math.max(...group.columns) - first + 1, layer = new Map(group.columns.map((c, i) => [c, i]));
  const picture = pixels(each, wide, (r, c) => (layer.has(c + first) ? values[layer.get(c + first) * each + r] ?? NaN : null), scale);
  pen.image(MAP.left + first * cell, group.top + 1, wide * cell, group.tall - 2, picture);
}
/** Ends of all but the outermost 0.5 % of many values on each side: one expert is not to pale all others. */
function bulk(values) {
  const known = values.filter((v) => !absent(v)).sort((a, b) => a - b), out = Math.floor(0.005 * known.length);
  return known.length ? [known[out], known[known.length - 1 - out]] : null;
}
/** The matrix at a column and a height of the map. */
function placeAt(pair, c, y) {
  layout(pair);
  const g = pair.groups.findIndex((group) => y >= group.top && y < group.top + group.tall), group = pair.groups[g];
  const layer = group ? group.columns.indexOf(c) : -1, each = eachOf(group);
  if (layer < 0) return null;
  return [g, layer * each + Math.max(0, Math.min(each - 1, Math.floor(((y - group.top - 1) / (group.tall - 2)) * each)))];
}
/** Where a step leads: along the layers, and through experts to the next projection. */
function moved(pair, [g, i], [rows, columns]) {
  const clamp = (x, most) => Math.max(0, Math.min(most, x));
  const own = pair.groups[g], each = eachOf(own), layer = Math.floor(i / each), expert = (i % each) + rows;
  if (!rows || (expert >= 0 && expert < each)) return [g, clamp(layer + columns, own.depth.length - 1) * each + clamp(expert, each - 1)];
  const next = clamp(g + rows, pair.groups.length - 1), group = pair.groups[next];
  if (next === g) return [g, i];
  const same = group.columns.indexOf(own.columns[layer]), there = same < 0 ? clamp(layer, group.depth.length - 1) : same;
  return [next, there * eachOf(group) + (rows < 0 ? eachOf(group) - 1 : 0)];
}

/** A line by layer of what make says of every matrix: of experts the median, and from 10 to 90 %. */
function byLayer(group, line) {
  if (!group.experts) return line;
  const each = eachOf(group), y = [], low = [], high = [];
  group.depth.forEach((_, layer) => {
    const values = line.y.slice(layer * each, (layer + 1) * each).filter((v) => !absent(v)).sort((a, b) => a - b);
    for (const [list, share] of [[y, 0.5], [low, 0.1], [high, 0.9]]) {
      const at = share * (values.length - 1), k = Math.floor(at);
      list.push(values.length ? values[k] + ((values[k + 1] ?? values[k]) - values[k]) * (at - k) : null);
    }
  });
  return {...line, y, low, high};
}
/** Scaling of a layer's experts: the median, and from 10 to 90 % of them. */
function expertsPanel(group, matrix) {
  const layer = Math.floor(matrix / eachOf(group)), [low, y, high] = ['low', 'middle', 'high'].map((name) => curve(group[name], layer).map((v) => finite(2 ** v)));
  const n = y.length, x = y.map((_, j) => Math.round(((j + 0.5) * group.rank) / n - 0.5)), top = Math.ceil(0.9 * n);
  const near = extent([1, ...[y, low, high].flatMap((values) => values.slice(0, top))]), room = 0.08 * (near[1] - near[0]) || 0.01;
  return {title: 'σ post / σ base', x, series: [{label: 'experts of the layer, 10–90 %', y, low, high, colour: 7, dash: true, plain: true}], rules: [1], marks: [0.9 * group.rank - 0.5], range: [near[0] - room, near[1] + room]};
}
