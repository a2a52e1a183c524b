"""A page that a picture goes into: its box over the examples, the answer that it asks for, and files that come out."""

import inspect
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import gradio as gr
from PIL import Image

from apps.kit import answers, parts, pictures, wires
from apps.kit.page import Page
from apps.kit.session import StopFlags
from apps.kit.wires import AT_ONCE, HIDDEN, wire

SAVE, UPLOAD = (Path(__file__).with_name(name) for name in ("save.js", "upload.js"))
NO_EXAMPLE = "an example …"
STAMP = "(path, _) => [path, performance.now()]"  # of two requests the later one counts, whichever comes first


def picture_box(page: Page, demo: gr.Blocks, examples: str, *, height: int, **said) -> gr.Image:
    """The box for a visitor's picture over the page's examples, under these words; said: as parts.examples.

    The page opens with the first of the examples in it.
    """
    name = f"{page.stem}-picture"
    box = pictures.picture_input("Your picture", height=height, elem_id=name)
    demo.load(None, js=f"() => ({UPLOAD.read_text(encoding='utf-8')})('{name}')")
    parts.examples(page, demo, box, examples, **said)
    if page.examples:
        unless = f"(chosen, example) => document.querySelector('#{name}[data-touched]') ? chosen : chosen ?? example"
        first, example = str(page.folder / page.examples[0]["file"]), gr.Image(visible="hidden", image_mode=None)
        there = wire(demo.load, lambda: {example: first}, None, example, **AT_ONCE)
        there.then(None, [box, example], box, js=unless, **HIDDEN)
    return box


def example_box(page: Page, label: str, *, height: int, example: int | None = None, **options) -> gr.Image:
    """A box for a picture, over the names of the page's examples; example: it opens with this one."""
    files = {row["name"]: str(page.folder / row["file"]) for row in page.examples}
    name = [*files][example] if files and example is not None else NO_EXAMPLE
    box = pictures.picture_input(label, height=height, value=files.get(name), **options)
    if files:
        chosen = gr.Dropdown([NO_EXAMPLE, *files], value=name, label="Or", show_label=False, container=False)
        wire(chosen.input, lambda name: {box: files.get(name)}, chosen, box, **AT_ONCE)
    return box


def answered(triggers, fresh: Callable, *, flags: StopFlags, answer: Callable, emptied: Callable,
             box: gr.Image, inputs: Sequence, shown: Sequence):  # fmt: skip
    """The event that ends an answer: what triggers it ends the one before, which nobody waits for any more.

    fresh(path) says at once that it is asked for, answer(request, *inputs) answers under the session's flag, and
    emptied(*inputs) leaves no old answer where there is none; each gives {component: value} of `shown`.
    """

    def begin(request: gr.Request, path, stamp):
        return fresh(path) if flags.renew(request.session_hash, stamp or 0) else {}

    begun = wire(triggers, begin, [box, gr.Number(visible=False)], shown, js=STAMP, trigger_mode="multiple", **AT_ONCE)
    seen = wire(begun.then, _if_wanted(answer, flags), inputs, shown, **wires.latest(wires.LOOK))
    wire(seen.failure, emptied, inputs, shown, **AT_ONCE)
    return seen


def _if_wanted(answer: Callable, flags: StopFlags) -> Callable:
    """The answer; once its visitor has asked for something else, how it fails is nothing to say."""

    def stream(request: gr.Request, *inputs):
        flag = flags.get(request.session_hash)
        try:
            yield from answer(request, *inputs)
        except Exception:
            if not flag.overtaken:
                raise

    def call(request: gr.Request, *inputs):
        flag = flags.get(request.session_hash)
        try:
            return answer(request, *inputs)
        except Exception:
            if not flag.overtaken:
                raise
            return {}

    return stream if inspect.isgeneratorfunction(answer) else call


def saves(button: gr.Button, make: Callable, inputs: Sequence) -> None:
    """Has the button make a file, whose path make(*inputs) gives, and the browser save it."""
    file = gr.DownloadButton("File", visible=False)
    made = button.click(make, inputs, file, **wires.quiet(wires.LOOK))
    made.success(None, file, js=SAVE.read_text(encoding="utf-8"))


# ---- pictures as files -----------------------------------------------------------------------------------------------


def shown_file(image: Image.Image, name: str) -> str:
    """The path of a picture for the page to show."""
    image.save(buffer := io.BytesIO(), "JPEG", quality=92, subsampling=0)
    return answers.cached_file(buffer.getvalue(), f"{file_stem(name)}.jpg")


def file_stem(name: str) -> str:
    """A file's name out of a model's, which may be a path or a Hub id."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name.rstrip("/").rpartition("/")[2]).strip("-.")[:60] or "model"
