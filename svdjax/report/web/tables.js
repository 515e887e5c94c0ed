'use strict';
// The table of all matrices, and the list of answers: sorted, filtered, saved, of any length.

const TABLE = {rows: [], sort: '', up: true, row: 27, from: -1, to: -1};

/** Filter terms: words of a name, or column<number and the like; returns a test of a row. */
function filterOf(text, keys, nameOf) {
  const tests = text.split(/[\s,]+/).filter(Boolean).map((term) => {
    const match = term.match(/^([\p{L}_]\w*)(<=|>=|!=|<|>|=)(.+)$/u);
    const key = match && keys.find((k) => k === match[1].toLowerCase()) || match && keys.find((k) => k.startsWith(match[1].toLowerCase()));
    if (!match || !key) return (row) => nameOf(row).toLowerCase().includes(term.toLowerCase());
    const percent = match[3].endsWith('%'), wanted = percent ? parseFloat(match[3]) / 100 : Number(match[3]), words = Number.isNaN(wanted);
    return (row) => {
      const x = row.values[key];
      if (words) return match[2] === '!=' ? String(x) !== match[3] : match[2] === '=' && String(x).toLowerCase().includes(match[3].toLowerCase());
      if (absent(x) || x === '') return false;
      const y = Number(x);
      return {'<': y < wanted, '>': y > wanted, '<=': y <= wanted, '>=': y >= wanted, '=': y === wanted, '!=': y !== wanted}[match[2]];
    };
  });
  return (row) => tests.every((test) => test(row));
}

const PLACES = ['projection', 'layer', 'expert'], MOST_PRINTED = 3000;
const placeColumns = (pair) => PLACES.filter((key) => key !== 'expert' || pair.groups.some((group) => group.experts)).map((key) => ({key, label: key, format: 'text'}));
const tableColumns = () => [...placeColumns(pairOf()), ...columnsOf(pairOf())];
/** All matrices of a pair; made once, since a filter reads them at every letter. */
function allRows(pair) {
  pair.rows ||= pair.groups.flatMap((group, g) => group.layers.map((_, i) => {
    const label = layerOf(group, i), values = {projection: group.members ? group.members[i] : group.name, layer: /^\d+$/.test(label) ? +label : label, expert: group.experts ? group.experts[i % eachOf(group)] : ''};
    for (const c of pair.columns) values[c.key] = c.values[g]?.[i] ?? null;
    return {g, i, values};
  }));
  return pair.rows;
}
function table() {
  const pair = pairOf(), columns = tableColumns(), rows = allRows(pair);
  const keep = filterOf(byId('filter').value, columns.map((c) => c.key), (row) => `${row.values.projection} ${row.values.stands_out || ''}`);
  TABLE.rows = rows.filter(keep);
  if (TABLE.sort) {
    const side = TABLE.up ? 1 : -1, low = (x) => absent(x) || x === '';
    TABLE.rows.sort(({values: {[TABLE.sort]: a}}, {values: {[TABLE.sort]: b}}) => (low(a) ? (low(b) ? 0 : 1) : low(b) ? -1 : (a > b ? 1 : a < b ? -1 : 0) * side));
  }
  byId('count').textContent = `${TABLE.rows.length} of ${rows.length} matrices`;
  const head = el('tr', {}, ...columns.map((c) => el('th', {scope: 'col', 'aria-sort': TABLE.sort === c.key ? (TABLE.up ? 'ascending' : 'descending') : 'none'},
    el('button', {type: 'button', 'data-key': c.key, title: `${c.key}${c.help ? `: ${c.help}` : ''}`}, c.label, TABLE.sort === c.key ? (TABLE.up ? ' ▲' : ' ▼') : ''))));
  byId('matrices').replaceChildren(el('caption', {class: 'unseen'}, `All matrices of ${pair.name}`), el('thead', {}, head), el('tbody'));
  byId('matrices').setAttribute('aria-rowcount', TABLE.rows.length + 1);
  TABLE.from = -1;
  rowsInSight();
}
function rowOf(row, k, columns) {
  const {g, i, values} = row;
  const cells = columns.map((c, n) => el(n ? 'td' : 'th', n ? {class: c.format === 'text' && !PLACES.includes(c.key) ? 'text' : null} : {scope: 'row'}, PLACES.includes(c.key) ? String(values[c.key]) : shown(c.format, values[c.key])));
  return el('tr', {'data-g': g, 'data-i': i, 'aria-rowindex': k + 2, class: g === state.group && i === state.layer ? 'on' : null}, ...cells);
}
/** Only the rows near the sight are in the document; of a few hundred, all. */
function rowsInSight() {
  const box = byId('matrixScroll'), count = TABLE.rows.length, all = count <= 250;
  const from = all ? 0 : Math.max(0, Math.floor(box.scrollTop / TABLE.row) - 30), to = all ? count : Math.min(count, from + Math.ceil(box.clientHeight / TABLE.row) + 60);
  if (from === TABLE.from && to === TABLE.to) return;
  Object.assign(TABLE, {from, to});
  const columns = tableColumns(), gap = (n) => { const row = el('tr', {'aria-hidden': 'true', class: 'gap'}, el('td', {colspan: columns.length})); row.firstChild.style.height = `${n * TABLE.row}px`; return row; };
  byId('matrices').tBodies[0].replaceChildren(...(from ? [gap(from)] : []), ...TABLE.rows.slice(from, to).map((row, k) => rowOf(row, from + k, columns)), ...(to < count ? [gap(count - to)] : []));
}
function wholeTable() {
  if (!META.pairs.length || !pairOf().groups.length) return;
  const columns = tableColumns();
  byId('matrices').tBodies[0].replaceChildren(...TABLE.rows.slice(0, MOST_PRINTED).map((row, k) => rowOf(row, k, columns)));
  TABLE.from = -1;
}
function markRow() {
  byId('matrices').querySelectorAll('tr.on').forEach((row) => row.classList.remove('on'));
  byId('matrices').querySelector(`tr[data-g="${state.group}"][data-i="${state.layer}"]`)?.classList.add('on');
}
/** A cell of a CSV as in the tables' files: quoted where needed, no formula for a spreadsheet. */
function cell(x) {
  if (absent(x)) return 'nan';
  const words = typeof x === 'string' && /^[=+\-@\t\r]/.test(x) ? `'${x}` : String(x);
  return /[",\n\r]/.test(words) ? `"${words.replaceAll('"', '""')}"` : words;
}
function tableEvents() {
  byId('filter').oninput = () => { byId('matrixScroll').scrollTop = 0; table(); };
  byId('matrixScroll').onscroll = rowsInSight;
  byId('matrices').onclick = (event) => {
    const head = event.target.closest('button[data-key]'), row = event.target.closest('tr[data-g]');
    if (head) {
      TABLE.up = TABLE.sort === head.dataset.key ? !TABLE.up : PLACES.includes(head.dataset.key);
      TABLE.sort = head.dataset.key;
      table();
      byId('matrices').querySelector(`button[data-key="${TABLE.sort}"]`).focus();
    } else if (row) select(+row.dataset.g, +row.dataset.i);
  };
  byId('csv').onclick = () => {
    const columns = tableColumns(), lines = [columns.map((c) => c.key), ...TABLE.rows.map((row) => columns.map((c) => cell(row.values[c.key])))];
    save(`${pairOf().name}.csv`, new Blob([lines.map((line) => line.join(',')).join('\n') + '\n'], {type: 'text/csv'}));
  };
}

// ---- answers to the benchmarks -----------------------------------------------------------------
const MOST_ANSWERS = 200;
function answers() {
  document.querySelectorAll('.answers').forEach((box) => {
    const list = META.answers[box.dataset.answers], find = box.querySelector('input'), models = box.querySelector('select'), out = box.querySelector('ol'), count = box.querySelector('output');
    models.append(el('option', {value: ''}, 'all models'), ...[...new Set(list.map((a) => a.model))].map((name) => el('option', {value: name}, name)));
    const draw = () => {
      const keep = filterOf(find.value, ['tokens', 'correct', 'stopped', 'benchmark', 'id'], ({values: a}) => `${a.model} ${a.benchmark} ${a.correct ? 'right' : 'wrong'} ${a.stopped ? 'ended' : 'cut'} ${a.prompt} ${a.response}`);
      const some = list.filter((a) => (!models.value || a.model === models.value) && keep({values: a}));
      count.textContent = `${some.length} of ${list.length} answers${some.length > MOST_ANSWERS ? `, the first ${MOST_ANSWERS} shown` : ''}`;
      out.replaceChildren(...some.slice(0, MOST_ANSWERS).map((a) => el('li', {},
        el('details', {}, el('summary', {}, el('b', {class: a.correct ? 'good' : 'bad'}, a.correct ? 'right' : 'wrong'), ` ${a.model}, ${a.benchmark} ${a.id}: `, el('span', {class: 'soft'}, `${a.tokens} tokens${a.stopped ? '' : ', cut'}; answered ${a.extracted ?? '–'}, right is ${a.answer}${a.reason ? ` (${a.reason})` : ''}`)),
          el('pre', {tabindex: 0}, a.prompt), el('pre', {tabindex: 0}, a.response)))));
    };
    find.oninput = draw;
    models.onchange = draw;
    draw();
  });
}
