"""The page `detection`: what stands where, and what happens when."""

from pathlib import Path
from types import SimpleNamespace

import gradio as gr

from apps.detection import words
from apps.detection.desk import MOST_CHARACTERS, Desk, Look, load_models
from apps.kit import homes, launch, parts, picture_page, pictures, values, wires
from apps.kit.page import Page
from apps.kit.parts import WAITING, status
from apps.kit.wires import AT_ONCE, endpoint, wire
from hub_models.detection import Detector
from hub_models.store import CheckpointError

HERE = Path(__file__).parent
PAGE = Page(
    stem="detection",
    title="How many, and where?",
    sentence="A detector puts a box around each thing in your picture and counts them. It has seen drawings only. "
    "Say what should be there, and it says what is missing.",
    card="A box around each thing, counts of them, and whether they are what you asked for. See doubles silenced.",
    short="Boxes around things, counted and checked",
    models=("emoji", "masks"),
    gpu_seconds=10,
    call="detection_detect",
)
QUIET, LATEST = wires.quiet(wires.LOOK), wires.latest(wires.LOOK)
CANDIDATES = 5  # percent, from which on boxes take part in the film
NOTHING = "Nothing to check yet: say what should be there."
SHORT = 48  # characters of a picture's own sentence on its button


def build(models: dict[str, Detector | CheckpointError]) -> gr.Blocks:
    """The page over these models; a CheckpointError in a model's place becomes a card that names the cause."""
    with parts.opened(PAGE, models) as (demo, ready):
        if ready:
            desk = Desk(ready, PAGE)
            asked, shown = _main_part(demo, desk)
            _film_part(desk, asked, shown)
            _answer_events(demo, desk, asked, shown)
            _look_events(desk, asked, shown)
            _endpoints(desk, asked)
    return demo


# ---- what stands where -----------------------------------------------------------------------------------------------


def _main_part(demo: gr.Blocks, desk: Desk) -> tuple[SimpleNamespace, SimpleNamespace]:
    """What a visitor asks for, and all that shows what was found."""
    examples = "Or one of these: scenes no model was trained on. Each brings the sentence that it was painted from."
    asked, shown = SimpleNamespace(), SimpleNamespace()
    with gr.Row(elem_classes="v-columns", equal_height=False):
        with gr.Column(scale=6, min_width=280):
            asked.box = picture_page.picture_box(PAGE, demo, examples, height=280)
        with gr.Column(scale=9, min_width=320, elem_classes="v-card"):
            _picture_card(desk, asked, shown)
        with gr.Column(scale=8, min_width=300):
            with gr.Column(elem_classes="v-card"):
                _counts_card(desk, shown)
            with gr.Column(elem_classes="v-card"):
                _check_card(asked, shown)
    return asked, shown


def _picture_card(desk: Desk, asked: SimpleNamespace, shown: SimpleNamespace) -> None:
    asked.model_name = parts.model_choice(desk.models)
    shown.boxes = pictures.picture_output("Boxes over the picture", height=400, elem_id="detection-boxes")
    shown.status = gr.HTML(status(WAITING), padding=False, elem_id="detection-status")
    shown.home = homes.line(PAGE)
    first = desk.models.first
    own = Look.of(first)
    said = {"info": "A thing counts when the model is surer than that.", "elem_id": "detection-threshold"}
    asked.threshold = gr.Slider(0, 100, own.threshold, step=1, label="Threshold, %", **said)
    said = {"info": "Of boxes that overlap the surest alone counts.", "elem_id": "detection-silence"}
    asked.silence = gr.Checkbox(own.silence, label="Silence doubles", **said)
    with gr.Row():
        names = "Painted PNG", "COCO JSON", "JSON"
        shown.files = [gr.Button(name, size="sm", min_width=90, interactive=False) for name in names]
    asked.of_model = gr.State(first.name)  # with whose own threshold and overlap the page began


def _counts_card(desk: Desk, shown: SimpleNamespace) -> None:
    parts.subheading("How many?", "Counted from the boxes.")
    files = parts.TABLE, HERE / "answer.css"
    shown.counts = parts.styled(words.counts_html(None), *files, padding=False, elem_id="detection-counts")
    with gr.Accordion("Each thing", open=False):
        shown.things = parts.styled(words.things_html(None, None), *files, padding=False, elem_id="detection-things")
    shown.facts = gr.HTML(words.card(desk.models.first), padding=False)


def _check_card(asked: SimpleNamespace, shown: SimpleNamespace) -> None:
    parts.subheading("Is it what was asked for?", "Names of things stand for their class: a cat is an animal.")
    said = {"placeholder": "two faces and a car", "elem_id": "detection-wanted", "max_length": MOST_CHARACTERS}
    asked.wanted = gr.Textbox(label="What should be there", max_lines=3, **said)
    asked.wanted.example_payload = lambda: "two faces and a car"  # what docs/api.md asks for
    with gr.Row():
        shown.check = gr.Button("Check", size="sm", variant="primary", min_width=80, elem_id="detection-check")
        shown.take = gr.Button("Take its sentence", size="sm", min_width=80, visible=False, elem_id="detection-take")
    files = parts.TABLE, HERE / "answer.css"
    shown.verdict = parts.styled(words.verdict_html(None, NOTHING), *files, padding=False, elem_id="detection-verdict")


def _film_part(desk: Desk, asked: SimpleNamespace, shown: SimpleNamespace) -> None:
    parts.section(
        "Who silences whom",
        "A detector gives more boxes than there are things. Non-maximum suppression goes through them from the surest "
        "on: one that is kept silences all that share too much with it.",
    )
    with gr.Column(elem_classes="v-card"):
        with gr.Row():
            ids = {name: {"elem_id": f"detection-{name}", "min_width": 200} for name in ("candidates", "overlap")}
            asked.candidates = gr.Slider(1, 100, CANDIDATES, step=1, label="Candidates above, %", **ids["candidates"])
            own = Look.of(desk.models.first)
            asked.overlap = gr.Slider(
                0, 100, own.overlap, step=1, label="Silenced from an overlap of, %", **ids["overlap"]
            )
            asked.across = gr.Checkbox(own.across, label="Across classes", min_width=140, elem_id="detection-across")
        files = HERE / "film.css", HERE / "film.js"
        shown.film = parts.styled(parts.blank(WAITING), *files, padding=False, elem_id="detection-film")


# ---- what happens when -----------------------------------------------------------------------------------------------


def _look(asked: SimpleNamespace) -> list:
    """The fields of a Look."""
    return [asked.box, asked.model_name, asked.threshold, asked.silence, asked.overlap, asked.across]


def _answer(desk: Desk, asked: SimpleNamespace, shown: SimpleNamespace, look: Look, wanted: str) -> dict:
    """What changes with the threshold: the painted picture, the counts, what is missing."""
    seen, found = desk.found(look)
    width, height = seen.picture.size
    said = f"{look.name}: {words.sentence(found)} in {width} × {height} px, of {seen.total} candidates."
    return {
        shown.boxes: desk.painted(seen, found, look.name),
        shown.status: status(said),
        shown.counts: words.counts_html(found),
        shown.things: words.things_html(seen, found),
    } | _checked(desk, shown, look, wanted)


def _checked(desk: Desk, shown: SimpleNamespace, look: Look, wanted: str) -> dict:
    if not (wanted or "").strip():
        return {shown.verdict: words.verdict_html(None, NOTHING)}
    try:
        return {shown.verdict: words.verdict_html(desk.verdict(look, wanted))}
    except values.InputError as error:
        return {shown.verdict: words.verdict_html(None, error.message)}


def _answer_events(demo: gr.Blocks, desk: Desk, asked: SimpleNamespace, shown: SimpleNamespace) -> None:
    """What a fresh picture and another model bring about."""

    def fresh(path):
        return {shown.status: status("Waiting for the model …", 0)} if path else {}

    def emptied(path, name, *_):
        nothing = {shown.boxes: None, shown.status: status(WAITING), shown.counts: words.counts_html(None)}
        nothing |= {shown.things: words.things_html(None, None), shown.film: parts.blank(WAITING)}
        nothing |= {shown.verdict: words.verdict_html(None, NOTHING), shown.take: gr.update(visible=False)}
        off = dict.fromkeys(shown.files, gr.update(interactive=False))
        return nothing | off | {shown.facts: words.card(desk.models.chosen(name))}

    def detect(request: gr.Request, *given):
        *look, wanted, candidates = given
        look = Look(*look)
        if look.path is None:
            return emptied(*look)
        seen, own = desk.see(look.path, look.name), desk.own_words(look.path)
        short = own if len(own) <= SHORT else f"{own[:SHORT]} …"
        film = desk.film(look.path, look.name, candidates, look.overlap, look.across)
        return (
            _answer(desk, asked, shown, look, wanted)
            | {
                shown.film: film.html(),
                shown.facts: words.card(desk.models.chosen(look.name), seen.seconds),
                shown.take: gr.update(value=f"Take over: {short}", visible=bool(own)),
            }
            | dict.fromkeys(shown.files, gr.update(interactive=True))
        )

    def fit(name, before):
        """Another model has a threshold and an overlap of its own."""
        if name == before:
            return {}
        own = Look.of(desk.models.chosen(name))
        return {part: getattr(own, key) for key, part in fitted_to.items()} | {asked.of_model: name}

    outputs = [shown.boxes, shown.status, shown.counts, shown.things, shown.verdict, shown.film, shown.facts]
    outputs += [shown.take, *shown.files]
    how = dict(flags=desk.flags, answer=detect, emptied=emptied, box=asked.box, shown=outputs)
    how |= dict(inputs=[*_look(asked), asked.wanted, asked.candidates])
    home = desk.models, asked.box, asked.model_name, shown.home
    fitted_to = {key: getattr(asked, key) for key in ("threshold", "silence", "overlap", "across")}
    answered = []
    for trigger in (*homes.chosen(*home), asked.model_name.input):
        fitted = wire(
            trigger, fit, [asked.model_name, asked.of_model], [*fitted_to.values(), asked.of_model], **AT_ONCE
        )
        answered.append(picture_page.answered(fitted.then, fresh, **how))
    homes.said(*home, [event.success for event in answered])
    wires.halting(demo, desk.flags)
    for button, make in zip(shown.files, (desk.painted_file, desk.coco_file, desk.json_file), strict=True):
        picture_page.saves(button, make, _look(asked))


def _look_events(desk: Desk, asked: SimpleNamespace, shown: SimpleNamespace) -> None:
    """What is seen anew of the same candidates: no model runs."""

    def repaint(*given):
        *look, wanted = given
        look = Look(*look)
        return {} if look.path is None else _answer(desk, asked, shown, look, wanted)

    def refilm(path, name, candidates, overlap, across):
        return {shown.film: desk.film(path, name, candidates, overlap, across).html()} if path else {}

    def check(*given):
        *look, wanted = given
        look = Look(*look)
        if look.path is None:
            return {shown.verdict: words.verdict_html(None, WAITING)}
        return _checked(desk, shown, look, wanted)

    def take(path):
        own = desk.own_words(path) if path else ""
        return {asked.wanted: own} if own else {}

    looked = [*_look(asked), asked.wanted]
    painted = [shown.boxes, shown.status, shown.counts, shown.things, shown.verdict]
    sliders = [asked.threshold.change, asked.silence.change, asked.overlap.change, asked.across.change]
    wire(sliders, repaint, looked, painted, **LATEST)
    filmed = [asked.box, asked.model_name, asked.candidates, asked.overlap, asked.across]
    wire([one.change for one in filmed[2:]], refilm, filmed, shown.film, **LATEST)
    wire([shown.check.click, asked.wanted.submit], check, looked, shown.verdict, **LATEST)
    taken = wire(shown.take.click, take, asked.box, asked.wanted, **AT_ONCE)
    wire(taken.then, check, looked, shown.verdict, **LATEST)


def _endpoints(desk: Desk, asked: SimpleNamespace) -> None:
    painted, file = gr.File(label="Painted", visible=False), gr.File(label="COCO", visible=False)
    result = gr.JSON(label="Result", visible=False)
    endpoint(wires.LOOK, desk.detection_detect, _look(asked), [painted, file, result])
    box, *how = _look(asked)
    endpoint(wires.LOOK, desk.detection_check, [box, asked.wanted, *how], result)
    inputs = [asked.box, asked.model_name, asked.candidates, asked.overlap, asked.across]
    endpoint(wires.LOOK, desk.detection_steps, inputs, result)


def main() -> None:
    launch.run(PAGE, load_models, build)
