"""What the page computes, for people and programs: captions, the evidence for their words, and a ranking of lines."""

import html
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import gradio as gr
from PIL import Image

from apps.captioning import words
from apps.captioning.paint import Looked, covered_picture, heat_map
from apps.captioning.words import Said
from apps.kit import answers, homes, pictures, values
from apps.kit.session import Recent, StopFlags, Watch
from hub_models import captioning, texts
from hub_models.captioning import Caption, Captioner
from hub_models.clip import CLIP

GREEDY, BEAMS, NUCLEUS = DECODINGS = ("Greedy", "Beams", "Nucleus")
MAX_SEQUENCES = captioning.MAX_SEQUENCES  # captions, and beams
TEMPERATURES, TOP_PS = (0.1, 3), (0.05, 1)
MAX_LINES, MAX_LINE = 200, 300  # to rank, and characters of each
LOOKED, COVERED = VIEWS = ("Where it looked", "What was covered")
KEPT = 32  # pictures with words whose evidence is kept
DEADLINE_SECONDS = 120


# ---- what to say, checked --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """A picture to caption, and how. `settings` are arguments of `Captioner.caption`."""

    model: Captioner
    picture: Image.Image
    settings: dict

    @property
    def seed(self) -> int | None:
        return self.settings.get("seed")

    def captions(self, stop: threading.Event) -> list[Caption]:
        """What the model says, best first. Raises InputError as `watch`."""
        return self.model.caption(self.picture, on_step=watch(stop), **self.settings)


def longest(model: Captioner) -> int:
    """The most tokens that a caption can be asked to have."""
    return min(captioning.NEW_TOKENS, model.max_length - 1)


def check_text(model: Captioner, value, name: str) -> str:
    """The text without what nobody sees in it. Raises InputError, with the limit, where the decoder can't read all."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise values.InputError(f"{name} must be text.")
    try:
        text = texts.one_line(value) if len(value) <= captioning.MAX_TEXT else value
        model.prefix_tokens(text)
    except ValueError as error:
        raise values.InputError(html.escape(f"{name}: {error}.")) from error
    return text


def check_order(model: Captioner, path, decoding, beams, count, length, temperature, top_p, prefix, seed) -> Order:
    """The order that raw parameters stand for; gr.Error names what is wrong with the first that is."""
    decoding = values.choice(decoding, "Decoding", DECODINGS)
    beams = values.number(beams, "Beams", 1, MAX_SEQUENCES, integer=True)
    count = values.number(count, "Captions", 1, MAX_SEQUENCES, integer=True)
    length = values.number(length, "Longest, in tokens,", 1, captioning.NEW_TOKENS, integer=True)
    drawn = {
        "temperature": values.number(temperature, "Temperature", *TEMPERATURES),
        "top_p": values.number(top_p, "Top-p", *TOP_PS),
        "seed": values.typed_seed(seed),
    }
    settings = {"max_new_tokens": min(length, longest(model)), "prefix": check_text(model, prefix, "The beginning")}
    if decoding == BEAMS:
        if count > beams:
            raise values.InputError(f"Captions must be a whole number from 1 to {beams}, the number of beams.")
        settings |= {"num_beams": beams, "num_return_sequences": count}
    if decoding == NUCLEUS:
        settings |= {"do_sample": True, "num_return_sequences": count} | drawn
    return Order(model, pictures.read_picture(path), settings)


def check_lines(value) -> list[str]:
    """The lines of a text that have something in them, each once. Raises InputError, which names the limits."""
    if not isinstance(value, str):
        raise values.InputError("Lines must be text, one sentence a line.")
    try:
        texts.check(value, "The list of lines")
    except texts.TooLong as error:
        raise values.InputError(str(error)) from error
    most = max(map(len, value.splitlines()), default=0)
    _check_sizes(value.count("\n") + 1, most, 10 * MAX_LINES, 4 * MAX_LINE)  # with all that nobody sees
    lines = list(dict.fromkeys(line for line in map(texts.one_line, value.splitlines()) if line))
    if not lines:
        raise values.InputError(f"Write what to rank first: 1 to {MAX_LINES} lines, one sentence a line.")
    _check_sizes(len(lines), max(map(len, lines)), MAX_LINES, MAX_LINE)
    return lines


def _check_sizes(count: int, most: int, max_count: int, max_most: int) -> None:
    if count > max_count:
        raise values.InputError(f"{count:,} lines to rank, at most {MAX_LINES} are: leave some out.")
    if most > max_most:
        raise values.InputError(f"A line has {most:,} characters, at most {MAX_LINE} are ranked: shorten it.")


# ---- what is computed ------------------------------------------------------------------------------------------------


def watch(stop: threading.Event) -> Callable[[], None]:
    """What to call after every step of some work: raises InputError once `stop` is set or time is out."""
    watching = Watch(stop, DEADLINE_SECONDS)

    def look() -> None:
        if cause := watching.over():
            advice = "" if cause == "stopped" else ": ask for fewer beams or captions, or shorter ones"
            raise values.InputError(f"{cause.capitalize()}{advice}.")

    return look


def say(order: Order, name: str, path: str, stop: threading.Event) -> Said:
    captions = order.captions(stop)
    said = [caption.text for caption in captions]
    first = [said.index(text) for text in dict.fromkeys(said)]
    return Said(name, path, [captions[at] for at in first], [said.count(said[at]) for at in first])


def painted(looked: Looked, word: int, view, opacity) -> str | None:
    """The path of the map of a word, None where there is none."""
    view, opacity = values.choice(view, "View", VIEWS), values.percent(opacity, "Opacity")
    evidence = looked.words[word]
    if evidence.attention is None:
        return None
    if view == COVERED:
        image = covered_picture(looked.seen, evidence.covered)
    else:
        image = heat_map(looked.seen, evidence.attention, evidence.covered, opacity)
    return answers.cached_file(pictures.png_bytes(image), "map.png")


class Desk:
    """The captioners that are loaded, eyes to rank with, and the last evidences; either of the former two may lack."""

    def __init__(self, models: Mapping[str, Captioner], eyes: Mapping[str, CLIP]):
        self.models, self.eyes, self.flags = values.Models(models), values.Models(eyes), StopFlags()
        self.recent = Recent(KEPT)

    def look(self, name, path: str | None, caption: Caption, stop: threading.Event) -> Looked:
        """The evidence for the words of a caption, from the recent ones where it is there.

        Paths of uploads name their content, so that equal ones are equal pictures. Raises InputError as `watch`.
        """
        model = self.models.chosen(name)
        key = (model.name, model.weights_sha256, path, tuple(caption.tokens))
        if looked := self.recent.get(key):
            return looked
        picture = pictures.read_picture(path)
        evidence = model.evidence(picture, caption, on_step=watch(stop))
        return self.recent.keep(key, Looked(model.seen(picture), caption, evidence))

    def ranked(self, path: str | None, text) -> tuple[CLIP, list[tuple[str, float]], list[str]]:
        """The eye that the picture is for, the lines with their probabilities, most probable first, and a sentence for
        what CLIP can't read whole."""
        lines = check_lines(text)
        eye = self.eyes.get(homes.best(path, self.eyes), self.eyes.first)
        cut, most = sum(map(eye.was_cut, lines)), eye.max_length
        said = f"{cut} of the lines are longer than the {most} tokens that CLIP reads: their ends are lost."
        return eye, eye.rank(pictures.read_picture(path), lines), [said] if cut else []

    # For programs

    def captioning_caption(
        self, picture, model, decoding, beams, count, length, temperature, top_p, prefix, seed, request: gr.Request
    ):
        """Captions of a picture with their probabilities, best first, and each word's own.

        `world` says what kind of pictures the model has seen, and which of the loaded models the picture is for.

        Parameters:
            picture: a picture file
            model: the name of a loaded model
            decoding: "Greedy", "Beams" or "Nucleus"
            beams: of a beam search, 1 to 16
            count: how many captions, 1 to 16, of a beam search at most one a beam; a greedy one is alone
            length: at most so many tokens after the beginning, 1 to 64, and no more than the decoder has room for
            temperature: of the draws of "Nucleus", 0.1 to 3
            top_p: "Nucleus" draws from the fewest tokens that hold this share of the probability, 0.05 to 1
            prefix: what the caption begins with
            seed: of "Nucleus", reduced modulo 2**63; -1 draws a fresh one
        """
        asked = picture, decoding, beams, count, length, temperature, top_p, prefix, seed
        order = check_order(self.models.chosen(model), *asked)
        with self.flags.armed(request.session_hash) as stop:
            captions = order.captions(stop)
        return {
            "model": order.model.name,
            "weights_sha256": order.model.weights_sha256,
            "seed": None if order.seed is None else str(order.seed),
            "captions": [words.said_of(caption) for caption in captions],
            "world": homes.fact(picture, model, self.models),
        }

    def captioning_evidence(self, picture, model, text, word, opacity, request: gr.Request):
        """Where the model looked for the words of a caption, anybody's, and what each loses when that is covered.

        Returns the picture under the map of one word, and for every word: log_prob, drop (of it, when the covered
        patches have the picture's mean colour), and attention and covered, a row of numbers for each row of patches.

        Parameters:
            picture: a picture file
            model: the name of a loaded model
            text: the caption
            word: the one to paint the map of, 0 is the first
            opacity: of the map, 0 to 100 percent
        """
        loaded, opacity = self.models.chosen(model), values.percent(opacity, "Opacity")
        text = check_text(loaded, text, "Text")
        seen = pictures.read_picture(picture)
        if not text:
            raise values.InputError("Text must have a word at least.")
        caption = loaded.score(seen, text)
        if not caption.words:
            raise values.InputError("Text must have a word at least that the model knows how to write.")
        word = values.number(word, "Word", 0, len(caption.words) - 1, integer=True)
        with self.flags.armed(request.session_hash) as stop:
            looked = self.look(model, picture, caption, stop)
        said = {"model": loaded.name, "text": caption.text, "log_prob": round(caption.log_prob, 5)}
        return painted(looked, word, LOOKED, opacity), said | {"words": words.seen_of(looked)}

    def captioning_rank(self, picture, lines):
        """Which text fits the picture: the lines with their probabilities, best first; they add up to 1.

        Parameters:
            picture: a picture file
            lines: 1 to 200 texts of up to 300 characters, one a line; empty and repeated ones are left out
        """
        eye, ranking, said = self.ranked(picture, lines)
        rows = [{"text": text, "probability": share} for text, share in ranking]
        return {"model": eye.name, "weights_sha256": eye.weights_sha256, "ranking": rows, "notices": said}
