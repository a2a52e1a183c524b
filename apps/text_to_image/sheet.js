element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  if (button.dataset.save) {
    const link = document.createElement('a');
    link.href = button.closest('figure').querySelector('img').src;
    link.download = button.dataset.save;
    link.click();
  } else trigger('click', { k: Number(button.dataset.start) });
});
