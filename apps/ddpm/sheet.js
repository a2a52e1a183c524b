element.addEventListener('click', (event) => {
  const tile = event.target.closest('.tile');
  if (!tile || tile.disabled) return;
  element.querySelectorAll('.tile').forEach((other) => other.setAttribute('aria-pressed', String(other === tile)));
  trigger('click', { k: Number(tile.dataset.k) });
});
