element.addEventListener('click', (event) => {
  const picked = event.target.closest('button[data-k]');
  if (!picked || picked.disabled) return;
  element.querySelectorAll('button[data-k]').forEach((each) => each.setAttribute('aria-pressed', each === picked));
  trigger('click', { k: Number(picked.dataset.k) });
});
