"""The tab where each family does with a visitor's picture what it can."""

import time

import gradio as gr

from apps.families import words
from apps.families.desk import Desk
from apps.families.family import ANY
from apps.families.fields import families_field
from apps.kit import drawing_page, parts, picture_page, pictures, wires
from apps.kit.page import Page
from apps.kit.session import until
from apps.kit.wires import endpoint

EVERY_SECONDS = 0.4  # a message to the page, as completing and denoising come in steps


def part(demo: gr.Blocks, desk: Desk, page: Page) -> None:
    sides = sorted({member.model.resolution_px for member in desk.members.values()})
    said = f"Each family does with it what it can. It goes in at {' or '.join(map(str, sides))} pixels a side."
    parts.section("Decode, complete, denoise, judge", said)
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=260):
            box = picture_page.picture_box(page, demo, "Or one of these: no model has seen them", height=240)
            info = "The class that it is drawn as; any leaves it open."
            label = gr.Dropdown([ANY, *desk.labels], value=ANY, label="What it is", info=info, min_width=150)
            seed = gr.Number(0, label="Seed", min_width=110)
        with gr.Column(scale=8, min_width=320):
            line = gr.HTML(parts.status(parts.WAITING), elem_id="families-looked")
            answers = parts.styled(parts.blank("What the families say stands here."), words.STYLE,
                                   elem_id="families-answers")  # fmt: skip
    _events(desk, (box, label, seed), line, answers)


def _events(desk: Desk, asked: tuple, line: gr.HTML, answers: gr.HTML) -> None:
    box, label, seed = asked

    def emptied(*_):
        return {answers: parts.blank("What the families say stands here."), line: parts.status(parts.WAITING)}

    def answer(request: gr.Request, path, label, seed):
        if path is None:
            yield emptied()
            return
        looks = desk.looks(pictures.read_picture(path), label, seed, None)
        flag, began, last = desk.looking.get(request.session_hash), time.monotonic(), -EVERY_SECONDS
        heard = {name: (member.title, member.variant, None, None) for name, member in desk.members.items()}
        for member, seen, refusal in until(looks, flag, drawing_page.DEADLINE_SECONDS):
            heard[member.name] = member.title, member.variant, seen, refusal
            if time.monotonic() - last > EVERY_SECONDS:
                yield {answers: words.answers_html(heard), line: parts.status(f"{member.title} is at it …")}
                last = time.monotonic()
        said = "Stopped" if flag.is_set() else f"Answered in {time.monotonic() - began:.1f} s"
        yield {answers: words.answers_html(heard), line: parts.status(f"{said}.")}

    picture_page.answered(
        [box.change, label.input, seed.change], lambda path: {}, flags=desk.looking, answer=answer, emptied=emptied,
        box=box, inputs=list(asked), shown=[answers, line],
    )  # fmt: skip
    gallery = gr.Gallery(label="Pictures", format="png", visible=False)
    said = gr.JSON(label="Families", visible=False)
    names = families_field(desk, visible=False)
    endpoint(wires.LOOK, desk.families_picture, [box, label, seed, names], [gallery, said])
