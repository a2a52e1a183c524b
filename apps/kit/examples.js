// gradio's example buttons hold a picture and no text: name them for screen readers and pointers once they are there.
// In a tab they are made anew when it is opened.
(names) => {
  const name = () => {
    if (!document.querySelector(".v-examples .gallery-item:not([aria-label])")) return;
    const buttons = document.querySelectorAll(".v-examples .gallery-item");
    buttons.forEach((button, i) => { button.setAttribute("aria-label", names[i]); button.title = names[i]; });
  };
  name();
  new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
}
