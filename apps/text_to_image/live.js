// A click 60 ms after the last key in the prompt.
let waiting;
document.addEventListener('input', (event) => {
  if (!event.target.closest('#text-to-image-prompt')) return;
  clearTimeout(waiting);
  waiting = setTimeout(() => trigger('click'), 60);
});
