"""The tab "Look inside": the film of one picture, where the model looked for its words, and forks of it."""

import time
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
from gradio import processing_utils

from apps.kit import answers, films, parts, values, wires
from apps.kit.wires import AT_ONCE, HIDDEN, endpoint, wire
from apps.text_to_image import inside_words as words
from apps.text_to_image.desk import Desk, Sheet, own_settings
from apps.text_to_image.film import Film
from apps.text_to_image.words import file_name, fork_said

HERE = Path(__file__).parent
LATEST = {"trigger_mode": "always_last"} | HIDDEN
NOTHING = "Draw something first: then one of its pictures can be looked into."
FORGOTTEN = "This film is forgotten, as all are after an hour: choose a picture again."


def inside_part(desk: Desk, form: SimpleNamespace, tab: gr.Tab) -> None:
    """form.drawn is the Sheet of the last drawing, form.order the fields that say what to draw."""
    shown = SimpleNamespace(drawn=form.drawn)
    said = (
        "Choose a picture of your last drawing. It is drawn once more, and everything on the way is kept. Guidance "
        "goes from the guess without the prompt past the one with it."
    )
    parts.section("Film of one picture", said)
    files = HERE / "inside.css", films.PICK
    shown.picks = parts.styled(parts.blank(NOTHING), *files, elem_id="text-to-image-picks")
    shown.line = gr.HTML("", elem_id="text-to-image-film-line")
    shown.film, shown.word = gr.State(None, time_to_live=3600), gr.State(0)
    shown.frame = gr.Slider(0, 1, 0, step=1, label="Frame", interactive=False, elem_id="text-to-image-frame")
    nothing = parts.blank("What the model sees at each step, what it guesses, and where it looks for each word.")
    shown.panel = parts.styled(nothing, *files, elem_id="text-to-image-film")
    shown.gif = gr.DownloadButton("Download GIF", visible=False, size="sm", elem_classes="v-narrow")
    parts.subheading("Fork it", "Drag to a frame, change something, and see where the picture goes from there.")
    shown.other, shown.other_word = gr.State(None, time_to_live=3600), gr.State(0)
    with gr.Row(equal_height=False):
        shown.prompt = gr.Textbox("", label="Prompt from here", max_lines=3, min_width=220, scale=2)
        own = own_settings(desk.models.first, {})
        shown.guidance = gr.Slider(1, **own["guidance"], step=0.1, label="Guidance from here", min_width=220)
        chips = {"label": "Sampler from here", "elem_classes": "chips", "elem_id": "text-to-image-fork-sampler"}
        shown.sampler = gr.Radio(**own["sampler"], min_width=260, **chips)
        shown.fork = gr.Button("Fork at this frame", min_width=160)
    shown.fork_line = gr.HTML("", elem_id="text-to-image-fork-line")
    shown.branch = parts.styled("", *files, elem_id="text-to-image-fork")
    with gr.Row():
        shown.both = gr.DownloadButton("Download GIF of both", visible=False, size="sm", min_width=160)
        shown.png = gr.DownloadButton("Download PNG of the fork", visible=False, size="sm", min_width=160)
    _film_events(desk, shown, tab)
    _word_events(shown)
    _fork_events(desk, shown)
    _endpoints(desk, form)


def _unforked(shown: SimpleNamespace) -> dict:
    """What a film without a fork shows of one."""
    hidden = gr.update(visible=False)
    return {shown.other: None, shown.fork_line: "", shown.branch: "", shown.both: hidden, shown.png: hidden}


def _at(film: Film, at) -> int:
    return values.number(at, "Frame", 0, film.last, integer=True)


def _film_events(desk: Desk, shown: SimpleNamespace, tab: gr.Tab) -> None:
    """A picture is chosen and filmed, and its film looked at; it is None again after an hour."""
    chosen, late = gr.State(0), gr.State(None)  # late: when a frame was shown that has to be decoded yet

    def offer(sheet: Sheet | None):
        if sheet is None:
            return {shown.picks: parts.blank(NOTHING)}
        return {shown.picks: words.picks_html(sheet.pngs, [sheet.receipt(k) for k in range(len(sheet.pngs))])}

    def choose(event: gr.EventData, sheet):
        if sheet is None:
            raise values.InputError(NOTHING)
        k = values.number(event.k, "Picture", 0, len(sheet.pngs) - 1, integer=True)
        return {chosen: k, shown.line: parts.status("Drawing it once more, and looking on …")}

    def record(request: gr.Request, sheet, k):
        if sheet is None:
            raise values.InputError(NOTHING)
        order = desk.recorded(sheet.receipt(k), sheet.start)
        film, own = desk.film(order, request.session_hash), own_settings(order.model, sheet.receipt(k))
        receipt = film.receipt
        name = file_name(receipt["prompt"], int(receipt["seed"])).replace(".png", ".gif")
        said = f"{film.total} steps of “{receipt['prompt'] or 'no prompt'}”, seed {receipt['seed']}: drag the frame."
        shows = {shown.film: film, shown.line: parts.status(said), shown.word: film.first_word}
        shows |= {
            shown.prompt: receipt["prompt"],
            shown.guidance: gr.update(**own["guidance"]),
            shown.sampler: gr.update(**own["sampler"]),
        }
        shows |= {shown.gif: gr.update(value=answers.cached_file(film.gif(), name), visible=True)}
        shows |= {shown.frame: gr.update(maximum=film.last, value=film.last // 2, interactive=True)}
        shows |= {shown.panel: words.film_html(film, film.last // 2, film.first_word)} | _unforked(shown)
        return shows | ({} if film.last // 2 in film.sharp else {late: time.monotonic()})

    def failed():
        return {shown.line: parts.status("Not filmed: the message says why.")}

    def scrub(film, at, word, other, other_word):
        if film is None:
            return {shown.panel: parts.blank(FORGOTTEN), shown.branch: ""}
        at = _at(film, at)
        branch = {shown.branch: words.film_html(other, other.frame_beside(film, at), other_word)} if other else {}
        rough = {late: time.monotonic()} if undecoded(film, at, other) else {}
        return {shown.panel: words.film_html(film, at, word)} | branch | rough

    def undecoded(film, at, other):
        seen = [(film, at), *([(other, other.frame_beside(film, at))] if other else [])]
        return [(each, frame) for each, frame in seen if frame not in each.sharp]

    def develop(film, at, word, other, other_word):
        if film is None:
            return {}
        for each, frame in undecoded(film, _at(film, at), other):
            desk.develop(each, frame)
        return scrub(film, at, word, other, other_word)

    wire(tab.select, offer, shown.drawn, shown.picks, **AT_ONCE)
    picked = wire(shown.picks.click, choose, shown.drawn, [chosen, shown.line], **HIDDEN)
    outputs = [shown.film, shown.line, shown.word, shown.prompt, shown.guidance, shown.sampler, shown.gif, shown.frame]
    outputs += [shown.panel, late, *_unforked(shown)]
    recorded = wire(picked.success, record, [shown.drawn, chosen], outputs, **wires.quiet(wires.DRAW))
    wire(recorded.failure, failed, None, shown.line, **AT_ONCE)
    look = [shown.film, shown.frame, shown.word, shown.other, shown.other_word]
    wire(shown.frame.change, scrub, look, [shown.panel, shown.branch, late], **LATEST)
    wire(late.change, develop, look, [shown.panel, shown.branch, late], **wires.latest(wires.LOOK))


def _word_events(shown: SimpleNamespace) -> None:
    """A word is chosen, of the film's prompt or of its fork's."""

    def choose_word(event: gr.EventData, film, at):
        if film is None:
            return {shown.panel: parts.blank(FORGOTTEN)}
        word = values.number(event.k, "Word", 0, len(film.words) - 1, integer=True)
        return {shown.word: word, shown.panel: words.film_html(film, _at(film, at), word)}

    def choose_other_word(event: gr.EventData, film, at, other):
        if film is None or other is None:
            return {shown.branch: parts.blank(FORGOTTEN)}
        word = values.number(event.k, "Word", 0, len(other.words) - 1, integer=True)
        return {
            shown.other_word: word,
            shown.branch: words.film_html(other, other.frame_beside(film, _at(film, at)), word),
        }

    look = [shown.film, shown.frame]
    wire(shown.panel.click, choose_word, look, [shown.word, shown.panel], **LATEST)
    wire(shown.branch.click, choose_other_word, [*look, shown.other], [shown.other_word, shown.branch], **LATEST)


def _fork_events(desk: Desk, shown: SimpleNamespace) -> None:
    """A film goes another way from the frame that is shown."""

    def fork(request: gr.Request, film, at, word, *changed):
        if film is None:
            raise values.InputError(FORGOTTEN)
        at = _at(film, at)
        other = desk.film(desk.branch(film, at, *changed), request.session_hash)
        prompt = other.receipt["fork"]["prompt"] or film.receipt["prompt"]
        name = file_name(prompt, int(film.receipt["seed"])).replace(".png", "-fork.png")
        both = answers.cached_file(film.gif(other), name.replace(".png", ".gif"))
        png = answers.cached_file(processing_utils.encode_pil_to_bytes(other.picture), name)
        said = parts.status(f"Another way {fork_said(other.receipt)}.")
        return {
            shown.other: other, shown.other_word: other.first_word, shown.fork_line: said, shown.frame: film.last,
            shown.both: gr.update(value=both, visible=True), shown.png: gr.update(value=png, visible=True),
            shown.panel: words.film_html(film, film.last, word),
            shown.branch: words.film_html(other, other.last, other.first_word),
        }  # fmt: skip

    asked = [shown.film, shown.frame, shown.word, shown.prompt, shown.guidance, shown.sampler]
    outputs = [shown.other, shown.other_word, shown.fork_line, shown.frame, shown.both, shown.png]
    outputs += [shown.panel, shown.branch]
    wire(shown.fork.click, fork, asked, outputs, **wires.quiet(wires.DRAW))


def _endpoints(desk: Desk, form: SimpleNamespace) -> None:
    one = [form.prompt, form.negative, form.seed, form.steps, form.guidance, form.sampler]
    animation, receipt = gr.File(label="GIF", visible=False), gr.JSON(label="Receipt", visible=False)
    looked = gr.JSON(label="Words", visible=False)
    endpoint(wires.DRAW, desk.text_to_image_film, [*one, form.model_name], [animation, receipt, looked])
    after = gr.Number(0, label="Steps before the fork", visible=False)
    prompt = gr.Textbox("", label="New prompt", visible=False)
    guidance = gr.Number(form.guidance.value, label="New guidance", visible=False)
    sampler = gr.Radio(**own_settings(desk.models.first, {})["sampler"], label="New sampler", visible=False)
    changed = [after, prompt, guidance, sampler]
    forked = gr.Image(label="PNG of the fork", format="png", visible=False)
    endpoint(wires.DRAW, desk.text_to_image_fork, [*one, *changed, form.model_name], [animation, forked, receipt])
