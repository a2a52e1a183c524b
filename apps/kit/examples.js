// gradio's example buttons hold a picture and no text: name them for screen readers and pointers once they are there.
(names) => {
  const name = () => {
    const buttons = document.querySelectorAll(".v-examples .gallery-item");
    buttons.forEach((button, i) => { button.setAttribute("aria-label", names[i]); button.title = names[i]; });
    return buttons.length >= names.length; // in a tab they come one after the other
  };
  if (!name()) {
    const watch = new MutationObserver(() => { if (name()) watch.disconnect(); });
    watch.observe(document.body, { childList: true, subtree: true });
  }
}
