'use strict';
// A page that has plots and nothing to choose.
(async () => {
  META = JSON.parse(new TextDecoder().decode(await inflate('meta')));
  BUFFER = await inflate('data');
  document.documentElement.classList.add('ready');
  const draw = () => document.querySelectorAll('figure[data-plot]').forEach((figure) => show(figure, META.plots[figure.dataset.plot]));
  draw();
  let timer;
  addEventListener('resize', () => { clearTimeout(timer); timer = setTimeout(draw, 150); });
  window.ready = performance.now();
})();
