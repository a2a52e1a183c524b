(id) => {
  const prepare = () => {
    const box = document.getElementById(id);
    if (!box) return false;
    // Whoever has begun to bring a picture keeps it: then the page's example comes too late.
    for (const kind of ["click", "change", "drop", "paste"]) {
      box.addEventListener(kind, () => { box.dataset.touched = "yes"; }, true);
    }
    // Over a picture, gradio's "Upload file" takes that away: here it asks for another one as well.
    box.addEventListener("click", (event) => {
      if (event.target.closest("[aria-label='Upload file']") && box.querySelector("img")) {
        setTimeout(() => box.querySelector("input[type=file]")?.click(), 50);
      }
    });
    return true;
  };
  if (!prepare()) { // in a tab that nobody has opened yet
    const watch = new MutationObserver(() => { if (prepare()) watch.disconnect(); });
    watch.observe(document.body, { childList: true, subtree: true });
  }
}
