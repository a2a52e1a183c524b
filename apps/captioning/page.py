"""The page `captioning`: what stands where, and what happens when."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import gradio as gr

from apps.captioning import words
from apps.captioning.desk import (
    BEAMS,
    DECODINGS,
    GREEDY,
    LOOKED,
    MAX_LINE,
    MAX_LINES,
    MAX_SEQUENCES,
    NUCLEUS,
    TEMPERATURES,
    TOP_PS,
    VIEWS,
    Desk,
    check_order,
    longest,
    painted,
    say,
)
from apps.captioning.paint import OPACITY
from apps.kit import homes, launch, parts, picture_page, pictures, values, wires
from apps.kit.page import Page
from apps.kit.parts import WAITING, status
from apps.kit.wires import AT_ONCE, endpoint, wire
from hub_models import captioning, clip
from hub_models.captioning import Caption, Captioner
from hub_models.clip import CLIP
from hub_models.store import CheckpointError

HERE = Path(__file__).parent
PAGE = Page(
    stem="captioning",
    title="Put it into words",
    sentence="A decoder looks at the patches of your picture and says what it shows, word by word: emoji has seen "
    "drawings only, photo has seen photographs.",
    card="A captioner writes what it sees. Press a word to see where it looked, or let CLIP judge lines of your own.",
    short="Captions, and where each word was looked up",
    models=("emoji", "photo"),
    gpu_seconds=10,  # its longest work, 200 lines to rank, measured at 0.6 s of one CPU thread
    call="captioning_caption",
    also=("clip",),
)
QUIET, LATEST = wires.quiet(wires.LOOK), wires.latest(wires.LOOK)
RANKER = "clip="  # before the name of a dual encoder, among the names of models
BEAM_COUNT, CAPTION_COUNT, TOP_P = 5, 3, 0.9
PRESS_WORD = "Press a word of the caption to see where the model looked for it."
LINES = "a smiling face\na red car\na slice of pizza"
CHIPS = {"show_label": False, "container": False, "elem_classes": "chips"}


def load_models(names: Sequence[str]) -> dict[str, Captioner | CLIP | CheckpointError]:
    """Each named model, or the error in its place; a dual encoder under RANKER and its name."""
    captioners = [name for name in names if not name.startswith(RANKER)] or PAGE.models
    rankers = [name for name in names if name.startswith(RANKER)] or [f"{RANKER}emoji", f"{RANKER}photo"]
    found = launch.load_each(captioning.load, captioners)
    return found | launch.load_each(lambda name: clip.load(name.removeprefix(RANKER)), rankers)


def build(models: dict[str, Captioner | CLIP | CheckpointError]) -> gr.Blocks:
    """The page over these models; a CheckpointError in a model's place becomes a card that names the cause.

    Names that begin with RANKER are dual encoders, of which the one that a picture is for ranks, or the first.
    """
    rankers = {name.removeprefix(RANKER): model for name, model in models.items() if name.startswith(RANKER)}
    eyes = {name: model for name, model in rankers.items() if not isinstance(model, Exception)}
    with parts.opened(PAGE, {name: models[name] for name in models if not name.startswith(RANKER)}) as (demo, ready):
        if not ready and not eyes:
            _broken_rankers(rankers)
            return demo
        desk, asked, shown, rank = Desk(ready, eyes), SimpleNamespace(), SimpleNamespace(), SimpleNamespace()
        with gr.Row(elem_classes="v-columns", equal_height=False):
            with gr.Column(scale=5, min_width=300):
                examples = "Or one of these: no model was trained on them"
                asked.box = picture_page.picture_box(PAGE, demo, examples, height=300)
            with gr.Column(scale=8, min_width=320), gr.Tabs():
                if ready:
                    with gr.Tab("What does it show?"):
                        _caption_part(desk, asked, shown)
                with gr.Tab("Which text fits?"), gr.Column(elem_classes="v-card"):
                    _rank_card(rankers, eyes, rank)
        if ready:
            _caption_events(demo, desk, asked, shown)
            _look_events(desk, asked, shown)
        if eyes:
            _rank_events(desk, asked.box, rank)
    return demo


def _broken_rankers(rankers: Mapping) -> None:
    """A card for each dual encoder, none of which could be loaded."""
    for name, error in rankers.items():
        parts.degraded(f"CLIP “{name}”", error)


# ---- what stands where -----------------------------------------------------------------------------------------------


def _caption_part(desk: Desk, asked: SimpleNamespace, shown: SimpleNamespace) -> None:
    """What a visitor asks for, and all that shows what a model said and where it looked."""
    with gr.Column(elem_classes="v-card"):
        asked.model_name = parts.model_choice(desk.models, elem_id="captioning-model")
        with gr.Row(equal_height=True):
            said = {"value": GREEDY, "label": "Decoding", "elem_id": "captioning-decoding"}
            asked.decoding = gr.Radio(DECODINGS, scale=5, min_width=250, **said, **CHIPS)
            asked.go = gr.Button("Caption it", variant="primary", scale=2, min_width=110, elem_id="captioning-ask")
            said = {"variant": "stop", "interactive": False, "elem_id": "captioning-stop"}
            shown.stop = gr.Button("Stop", scale=1, min_width=80, **said)
        with gr.Accordion("How it is said", open=False, elem_id="captioning-options"):
            _options(desk, asked)
        shown.list = _buttons(words.captions_html(None), "list.css", "captioning-list")
        shown.status = gr.HTML(status(WAITING), padding=False, elem_id="captioning-status")
        shown.home = homes.line(PAGE)
    with gr.Column(elem_classes="v-card"):
        _look_card(desk, asked, shown)
    asked.how = [asked.decoding, asked.beams, asked.count, asked.length, asked.temperature, asked.top_p]
    asked.how += [asked.prefix, asked.seed]  # the inputs of check_order after the picture
    values.as_sent(asked.view)
    shown.said, shown.chosen, shown.word = gr.State(None, time_to_live=3600), gr.State(0), gr.State(None)


def _buttons(value: str, style: str, elem_id: str) -> gr.HTML:
    """A list of buttons: a press goes to Python or copies; drawn anew it keeps the focus where it was."""
    return parts.styled(value, HERE / style, HERE / "press.js", padding=False, elem_id=elem_id)


def _options(desk: Desk, asked: SimpleNamespace) -> None:
    def slider(low, high, value, step, label, name, visible=False):
        return gr.Slider(
            low, high, value, step=step, label=label, visible=visible, min_width=160, elem_id=f"captioning-{name}"
        )

    most, hidden = max(map(longest, desk.models.values())), {"visible": False, "min_width": 160}
    said = {"placeholder": "a picture of", "info": "The model goes on from there.", "elem_id": "captioning-prefix"}
    asked.prefix = gr.Textbox(label="Begin with", max_lines=1, **said)
    with gr.Row():
        asked.beams = slider(1, MAX_SEQUENCES, BEAM_COUNT, 1, "Beams", "beams")
        asked.count = slider(1, MAX_SEQUENCES, CAPTION_COUNT, 1, "Captions", "count")
        asked.length = slider(1, most, most, 1, "Longest, tokens", "length", visible=True)
    with gr.Row():
        asked.temperature = slider(*TEMPERATURES, 1, 0.05, "Temperature", "temperature")
        asked.top_p = slider(*TOP_PS, TOP_P, 0.05, "Top-p", "top-p")
    with gr.Row():
        asked.seed = gr.Textbox("0", label="Seed", max_lines=1, elem_id="captioning-seed", **hidden)
        asked.fresh = gr.Checkbox(True, label="New seed every time", **hidden)


def _look_card(desk: Desk, asked: SimpleNamespace, shown: SimpleNamespace) -> None:
    parts.subheading("Where did it look?", "Press a word. The bars then say how much each hangs on its own region.")
    shown.words = _buttons(words.words_html(None), "words.css", "captioning-words")
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=260):
            name = "Where the model looked for the word"
            shown.map = pictures.picture_output(name, height=340, elem_id="captioning-map")
        with gr.Column(scale=4, min_width=220):
            shown.worth = gr.HTML(status(PRESS_WORD), padding=False, elem_id="captioning-worth")
            asked.view = gr.Radio(VIEWS, value=LOOKED, label="View", elem_id="captioning-view", **CHIPS)
            asked.opacity = gr.Slider(0, 100, OPACITY, step=1, label="Opacity, %", elem_id="captioning-opacity")
            parts.styled(words.SCALE, HERE / "scale.css", padding=False)
            shown.facts = gr.HTML(words.card(desk.models.first), padding=False)


def _rank_card(rankers: Mapping, eyes: Mapping, rank: SimpleNamespace) -> None:
    parts.subheading("Your own lines", "CLIP says which of them fits the picture best, and how sure it is of that.")
    _broken_rankers({name: model for name, model in rankers.items() if name not in eyes})
    if not eyes:
        if not rankers:
            parts.degraded("CLIP", CheckpointError(f"none was named: start the page with --model {RANKER}FOLDER"))
        return
    said = {"info": f"Up to {MAX_LINES} lines of {MAX_LINE} characters.", "elem_id": "captioning-lines"}
    rank.lines = gr.Textbox(LINES, label="One a line", lines=5, max_lines=14, **said)
    rank.go = gr.Button("Rank them", variant="primary", elem_id="captioning-rank")
    rank.list = _buttons(words.ranking_html(None), "list.css", "captioning-ranking")
    rank.status = gr.HTML(status(""), padding=False, elem_id="captioning-rank-status")


# ---- what happens when -----------------------------------------------------------------------------------------------


def _unlooked(shown: SimpleNamespace, caption: Caption | None, at: int = 0) -> dict:
    """What shows a caption of those that were said, before any of its words was pressed."""
    empty = {shown.words: words.words_html(caption), shown.map: None, shown.worth: status(PRESS_WORD)}
    return empty | {shown.chosen: at, shown.word: None}


def _caption_events(demo: gr.Blocks, desk: Desk, asked: SimpleNamespace, shown: SimpleNamespace) -> None:
    on, off = gr.update(interactive=True), gr.update(interactive=False)

    def begin(path):
        if not path:
            return {shown.status: status(WAITING), shown.stop: off}
        return {shown.status: status("Looking for words …", 0), shown.stop: on}

    def emptied(path, name, *_, said=WAITING):
        model = next((model for each, model in desk.models.items() if each == name), desk.models.first)
        nothing = {shown.list: words.captions_html(None), shown.status: status(said), shown.facts: words.card(model)}
        return nothing | _unlooked(shown, None) | {shown.said: None, shown.stop: off}

    def failed(path, name, *_):
        return emptied(path, name, said="Nothing was said: the message says why.")

    def caption(request: gr.Request, path, name, fresh, *how):
        if path is None:
            return emptied(path, name)
        started = time.perf_counter()
        *how, seed = how
        order = check_order(desk.models.chosen(name), path, *how, None if fresh else seed)
        said = say(order, name, path, desk.flags.get(request.session_hash))
        seconds, best = time.perf_counter() - started, said.captions[0]
        line = f"{name}, {how[0].lower()}: {len(best.tokens)} tokens in {1000 * seconds:,.0f} ms."
        answer = {shown.list: words.captions_html(said), shown.facts: words.card(order.model, seconds)}
        answer |= _unlooked(shown, best) | {shown.said: said, shown.stop: off}
        if order.seed is None:
            return answer | {shown.status: status(line)}
        return answer | {shown.status: status(f"{line} Seed {order.seed}."), asked.seed: str(order.seed)}

    def fit_to_decoding(decoding):
        beams, nucleus = gr.update(visible=decoding == BEAMS), gr.update(visible=decoding == NUCLEUS)
        both = gr.update(visible=decoding in (BEAMS, NUCLEUS))
        drawn = dict.fromkeys((asked.temperature, asked.top_p, asked.seed, asked.fresh), nucleus)
        return drawn | {asked.beams: beams, asked.count: both}

    by_decoding = [asked.beams, asked.count, asked.temperature, asked.top_p, asked.seed, asked.fresh]
    wire(asked.decoding.change, fit_to_decoding, asked.decoding, by_decoding, **AT_ONCE)
    again = [asked.go.click, asked.prefix.submit, asked.decoding.input, asked.model_name.input]
    outputs = [shown.list, shown.status, shown.words, shown.map, shown.worth, shown.facts, shown.said, shown.chosen]
    how = dict(flags=desk.flags, answer=caption, emptied=failed, box=asked.box)
    how |= dict(inputs=[asked.box, asked.model_name, asked.fresh, *asked.how])
    home = desk.models, asked.box, asked.model_name, shown.home
    triggers = [*homes.chosen(*home), again]
    outputs += [shown.word, shown.stop, asked.seed]
    answered = [picture_page.answered(trigger, begin, shown=outputs, **how) for trigger in triggers]
    homes.said(*home, [event.success for event in answered])
    shown.stop.click(wires.halting(demo, desk.flags), None, None, **AT_ONCE)
    result = gr.JSON(label="Result", visible=False)
    endpoint(wires.LOOK, desk.captioning_caption, [asked.box, asked.model_name, *asked.how], result)


def _look_events(desk: Desk, asked: SimpleNamespace, shown: SimpleNamespace) -> None:
    def choose(event: gr.EventData, said):
        if said is None:
            return {}
        at = values.number(event.caption, "Caption", 0, len(said.captions) - 1, integer=True)
        return {shown.list: words.captions_html(said, at)} | _unlooked(shown, said.captions[at], at)

    def press(event: gr.EventData, request: gr.Request, said, at, view, opacity):
        if said is None:
            return {}
        caption = said.captions[values.number(at, "Caption", 0, len(said.captions) - 1, integer=True)]
        word = values.number(event.word, "Word", 0, len(caption.words) - 1, integer=True)
        looked = desk.look(said.name, said.path, caption, desk.flags.arm(request.session_hash))
        seen = {shown.words: words.words_html(caption, looked, word), shown.worth: status(words.worth(looked, word))}
        return seen | {shown.map: painted(looked, word, view, opacity), shown.word: word}

    def repaint(request: gr.Request, said, at, view, opacity, word):
        if said is None or word is None:
            return {}
        looked = desk.look(said.name, said.path, said.captions[at], desk.flags.get(request.session_hash))
        return {shown.map: painted(looked, word, view, opacity)}

    look = [shown.said, shown.chosen, asked.view, asked.opacity]
    pressed = [shown.words, shown.map, shown.worth, shown.word]
    wire(shown.list.click, choose, shown.said, [shown.list, shown.chosen, *pressed], **AT_ONCE)
    wire(shown.words.click, press, look, pressed, **QUIET)
    wire([asked.view.input, asked.opacity.change], repaint, [*look, shown.word], shown.map, **LATEST)
    file, result = gr.File(label="Map", visible=False), gr.JSON(label="Result", visible=False)
    text, word = gr.Textbox(label="Text", visible=False), gr.Number(0, label="Word", visible=False)
    inputs = [asked.box, asked.model_name, text, word, asked.opacity]
    endpoint(wires.LOOK, desk.captioning_evidence, inputs, [file, result])


def _rank_events(desk: Desk, box: gr.Image, rank: SimpleNamespace) -> None:
    def ranked(path, text):
        started = time.perf_counter()
        eye, ranking, said = desk.ranked(path, text)
        by = f" by CLIP {eye.name}" if len(desk.eyes) > 1 else ""
        line = f"{len(ranking)} lines{by} in {1000 * (time.perf_counter() - started):,.0f} ms."
        return {rank.list: words.ranking_html(ranking), rank.status: status(" ".join([line, *said]))}

    def emptied():
        return {rank.list: words.ranking_html(None), rank.status: status("")}

    shown = [rank.list, rank.status]
    done = wire(rank.go.click, ranked, [box, rank.lines], shown, **QUIET)
    wire(done.failure, emptied, None, shown, **AT_ONCE)
    wire(box.change, emptied, None, shown, **AT_ONCE)
    result = gr.JSON(label="Ranking", visible=False)
    endpoint(wires.LOOK, desk.captioning_rank, [box, rank.lines], result)


def main() -> None:
    launch.run(PAGE, load_models, build)
