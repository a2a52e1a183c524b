"""Which of a page's models a picture is for: chosen with a fresh picture, said beside the answer, one press away."""

import html
from types import SimpleNamespace

import gradio as gr
from PIL import Image

from apps.kit import pictures
from apps.kit.page import Page
from apps.kit.uploads import PictureError
from apps.kit.values import Models
from apps.kit.wires import AT_ONCE, wire
from hub_models.worlds import Home, home


def fact(path: str, name: str, models: Models) -> dict | None:
    """What a program is told: what the model has seen, and whether the picture belongs elsewhere; None without worlds.

    seen: the kind of the model's training pictures. best: the loaded model whose training pictures are most like it.
    outside: whether it is unlike those of all models. Raises PictureError as pictures.read_picture.
    """
    found, mine = _home(path, models), models.chosen(name).world
    if found.best is None or mine is None:
        return None
    return {"seen": mine.kind, "best": found.best, "outside": found.outside}


def best(path: str | None, models: Models) -> str | None:
    """The name of the model that the picture is for, None without worlds. Raises PictureError as read_picture."""
    return _home(path, models).best


def sentence(found: Home, name: str, models: Models) -> str:
    """What a visitor is told of a picture that is not for the model; "" where it is."""
    mine = models.chosen(name).world
    if found.best is None or mine is None:
        return ""
    best = models[found.best].world
    if best.kind != mine.kind:
        return f"This looks more like {best.kind} than like {mine.kind}, and {name} has seen {mine.kind} only."
    if found.outside:
        return f"This looks unlike the {mine.kind} that {name} has seen: do not rely on the answer."
    return ""


def of(image: Image.Image, models: Models) -> Home:
    """Which of the models the picture is for."""
    return home(image, {name: model.world for name, model in models.items()})


def note(text: str) -> str:
    """HTML of such a sentence."""
    return f'<p class="v-note" role="note">{html.escape(text)}</p>' if text else ""


def _home(path: str | None, models: Models) -> Home:
    return of(pictures.read_picture(path), models)


def line(page: Page) -> SimpleNamespace:
    """Where it is said, over the button that switches to the model that the picture is for."""
    said = gr.HTML("", padding=False, visible=False, elem_id=f"{page.stem}-home")
    switch = gr.Button("Try", size="sm", visible=False, elem_id=f"{page.stem}-try")
    return SimpleNamespace(said=said, switch=switch, chosen=gr.State(False))


def chosen(models: Models, box: gr.Image, model_name: gr.Radio, part: SimpleNamespace):
    """The events after which to answer: a fresh picture, whose model has been chosen, unless the visitor chose one; and
    a press of the button. What is chosen once is kept until that button is pressed."""

    def pick(path, name, kept):
        if not path or kept:
            return {}
        try:
            found = best(path, models)
        except PictureError:
            return {}  # whoever answers says why
        return {} if found is None or _alike(models, found, name) else {model_name: found}

    def switch(path):
        return {model_name: best(path, models), part.chosen: False} if path else {}

    wire(model_name.input, lambda: {part.chosen: True}, None, part.chosen, **AT_ONCE)
    picked = wire(box.change, pick, [box, model_name, part.chosen], model_name, **AT_ONCE)
    switched = wire(part.switch.click, switch, box, [model_name, part.chosen], **AT_ONCE)
    return picked.then, switched.then


def said(models: Models, box: gr.Image, model_name: gr.Radio, part: SimpleNamespace, events: list) -> None:
    """After these events, which end an answer, say whether the picture is for the model that gave it."""

    def say(path, name):
        found = _home(path, models) if path else Home(None, False)
        text = sentence(found, name, models)
        other = bool(text) and not _alike(models, found.best, name)
        shown = gr.update(value=note(text), visible=bool(text))
        return {part.said: shown, part.switch: gr.update(value=f"Try {found.best}", visible=other)}

    for event in events:
        wire(event, say, [box, model_name], [part.said, part.switch], trigger_mode="always_last", **AT_ONCE)


def _alike(models: Models, best: str | None, name: str) -> bool:
    """Whether a model has seen the same kind of pictures as the best one, or doesn't say what it has seen."""
    world = models.chosen(name).world
    return world is None or world.kind == models[best].world.kind
