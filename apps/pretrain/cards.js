element.addEventListener('click', (event) => {
  const tile = event.target.closest('.tile');
  if (!tile) return;
  const box = tile.getBoundingClientRect();
  const percent = (at, side) => Math.min(100, Math.max(0, Math.round(200 * at / side) / 2));
  trigger('click', {
    picture: Number(tile.dataset.picture) + 1,
    row: percent(event.clientY - box.top, box.height), column: percent(event.clientX - box.left, box.width),
  });
});
