"""The parts that pages are made of: heads, facts, status lines, examples, and HTML with a style of its own."""

import contextlib
import functools
import html
import json
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import gradio as gr
from PIL import Image

from apps.kit import launch
from apps.kit.page import Page

NAME_EXAMPLES = Path(__file__).with_name("examples.js")
TABLE = Path(__file__).with_name("table.css")  # of HTML with a table, for `styled`
WAITING = "Choose a picture first."


def blocks(title: str) -> gr.Blocks:
    """An empty page of the house: no analytics, no version check, uploads deleted after an hour."""
    return gr.Blocks(title=title, analytics_enabled=False, delete_cache=(3600, 3600))


@contextlib.contextmanager
def opened(page: Page, models: Mapping) -> Generator[tuple[gr.Blocks, dict]]:
    """A page under its title, with a card for each model that is an error, and those of its models that are none."""
    ready = {name: model for name, model in models.items() if not isinstance(model, Exception)}
    with blocks(f"{page.title} · Vitrail") as demo:
        heading(page.title, page.sentence)
        for name, model in models.items():
            if name not in ready:
                degraded(name, model)
        yield demo, ready


def styled(value: str, *files: Path, **options) -> gr.HTML:
    """HTML with the style and the script in these .css and .js files, which hold for this part of the page alone."""
    text = {suffix: "".join(file.read_text(encoding="utf-8") for file in files if file.suffix == suffix)
            for suffix in (".css", ".js")}  # fmt: skip
    script: dict = {"js_on_load": text[".js"]} if text[".js"] else {}
    return gr.HTML(value, css_template=text[".css"], **script, **options)


def heading(title: str, text: str, level: int = 1) -> gr.HTML:
    """The head of a page, with 2 of a part of it, with 3 of a card: its title and a sentence (plain text both)."""
    said = f"<h{level}>{html.escape(title)}</h{level}><p>{html.escape(text)}</p>"
    return gr.HTML(said, elem_classes=("v-heading", "v-section", "v-sub")[level - 1], padding=False)


section = functools.partial(heading, level=2)
subheading = functools.partial(heading, level=3)


def model_choice(names: Sequence[str], **options) -> gr.Radio:
    """The models as chips, the first chosen; not shown where there is one alone."""
    return gr.Radio(
        list(names), value=next(iter(names)), label="Model", show_label=False, container=False, elem_classes="chips",
        visible=len(names) > 1, **options,
    )  # fmt: skip


def examples(page: Page, demo: gr.Blocks, box: gr.Image, label: str, *, names=None) -> None:
    """The example pictures as buttons that say what they show, and the credits of their makers; nothing without any.

    names: those of the index's rows where they aren't given.
    """
    if not (rows := page.examples):
        return
    with gr.Column(elem_classes="v-examples"):
        files, name = [[str(page.folder / row["file"])] for row in rows], f"{page.stem}_example"
        gr.Examples(files, box, label=label, examples_per_page=len(rows), api_name=name, api_visibility="private")
        credits = " · ".join(dict.fromkeys(row["credit"] for row in rows))
        gr.HTML(html.escape(credits), elem_classes="v-credits", padding=False)
    said = json.dumps(list(names or (row["name"] for row in rows)))
    demo.load(None, js=f"() => ({NAME_EXAMPLES.read_text(encoding='utf-8')})({said})")


def facts(rows: Mapping) -> str:
    """HTML of a small table of name and value, for `gr.HTML`: parameters, hash, device, milliseconds."""
    cells = "".join(f"<dt>{html.escape(str(k))}</dt><dd>{html.escape(str(v))}</dd>" for k, v in rows.items())
    cells = cells.encode("utf-8", "replace").decode()  # a lone surrogate, from somebody's file, can't be sent as JSON
    return f'<dl class="v-facts">{cells}</dl>'


def answered(model, picture: Image.Image, seconds: float) -> dict:
    """For JSON: which model answered, on a picture of what size, in how many seconds."""
    size = {"width": picture.width, "height": picture.height}
    return {"model": model.name, "weights_sha256": model.weights_sha256} | size | {"seconds": round(seconds, 3)}


def model_facts(model, seconds: float | None = None, **more) -> str:
    """HTML: the measured time of an answer, what there is `more` to say, and a model's parameters, hash and device."""
    waiting = seconds is None
    answered = "no picture yet" if waiting else f"{seconds:.1f} s" if seconds >= 10 else f"{seconds * 1000:.0f} ms"
    return facts({
        "Answered in": answered,
        **more,
        "Parameters": f"{model.parameters / 1e6:.1f} M",
        "Weights": model.weights_sha256[:12],
        "Device": launch.device_line({model.name: model}),
    })  # fmt: skip


def degraded(name: str, error: Exception) -> gr.HTML:
    """The card that stands in a model's place when its checkpoint cannot be used: the cause, and what to do."""
    body = f"<strong>{html.escape(name)} could not be loaded</strong><p>{html.escape(str(error))}</p>"
    return gr.HTML(f'<div class="v-degraded" role="alert">{body}</div>', padding=False)


def status(text: str, share: float | None = None) -> str:
    """HTML of a line that screen readers speak, over a bar for the share done while that is below 1."""
    shown = share is not None and share < 1
    bar = f'<progress max="1" value="{share:.3f}" aria-label="progress"></progress>' if shown else ""
    return f'<div class="v-status" role="status"><span>{html.escape(text)}</span>{bar}</div>'


def blank(text: str) -> str:
    """HTML of the frame that stands where nothing is drawn yet."""
    return f'<div class="v-blank">{html.escape(text)}</div>'
