// For all lists of buttons: a press goes to Python or copies; a list drawn anew keeps the focus where it was.
let key = null;
element.addEventListener('click', async (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  if (button.dataset.copy === undefined) {
    key = button.dataset.key;
    trigger('click', { caption: Number(button.dataset.caption), word: Number(button.dataset.word) });
    return;
  }
  try { await navigator.clipboard.writeText(button.dataset.copy); }
  catch {
    const area = Object.assign(document.createElement('textarea'), { value: button.dataset.copy });
    document.body.append(area); area.select(); document.execCommand('copy'); area.remove(); button.focus();
  }
  button.dataset.done = ''; button.setAttribute('aria-label', 'Copied');
  setTimeout(() => { delete button.dataset.done; button.setAttribute('aria-label', 'Copy'); }, 1500);
});
watch('value', () => {
  const active = document.activeElement, free = !active || active === document.body || element.contains(active);
  if (key && free) element.querySelector(`[data-key="${key}"]`)?.focus();
  key = null;
});
