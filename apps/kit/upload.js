(id) => {
  const prepare = () => {
    const box = document.getElementById(id);
    if (!box || box.dataset.prepared) return;
    box.dataset.prepared = "yes"; // in a tab it is made anew when that is opened
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
  };
  prepare();
  new MutationObserver(prepare).observe(document.body, { childList: true, subtree: true });
}
