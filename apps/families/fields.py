"""Fields that several tabs of the page have."""

import gradio as gr

from apps.families.desk import Desk
from apps.kit import pictures
from apps.kit.page import Page
from apps.kit.wires import AT_ONCE, wire

NO_EXAMPLE = "an example …"


def families_field(desk: Desk, **options) -> gr.CheckboxGroup:
    """The models by their families' names, all of them chosen."""
    choices = [(member.title, name) for name, member in desk.members.items()]
    if len({title for title, _ in choices}) < len(choices):
        choices = [(f"{member.title}, {member.variant}", name) for name, member in desk.members.items()]
    return gr.CheckboxGroup(choices, value=list(desk.members), label="Families", elem_classes="chips", **options)


def example_box(page: Page, label: str, *, height: int, first: bool = False, **options) -> gr.Image:
    """A box for a picture, over the names of the page's examples; first: it opens with the first of them."""
    files = {row["name"]: str(page.folder / row["file"]) for row in page.examples}
    name = next(iter(files)) if files and first else NO_EXAMPLE
    box = pictures.picture_input(label, height=height, value=files.get(name), **options)
    if files:
        chosen = gr.Dropdown([NO_EXAMPLE, *files], value=name, label="Or", show_label=False, container=False)
        wire(chosen.input, lambda name: {box: files.get(name)}, chosen, box, **AT_ONCE)
    return box
