"""Captions of a picture with their probabilities, where the model looked for each word, and which of your own lines fits best.

    python -m apps.captioning [--model emoji --model org/blip --model clip=FOLDER] [--port 7860]

Any `VisionEncoderDecoderModel` or `BlipForConditionalGeneration` can be served, and, after "clip=", any dual encoder to
rank lines with; without one it is CLIP's "emoji". Opacity is a percentage. Letters: h × w patches.
"""

import html
import json
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image, ImageDraw

from apps import ui
from apps.kit import pictures, visitors
from apps.kit.page import Page
from hub_models import captioning, clip, texts
from hub_models.captioning import Caption, Captioner, Evidence
from hub_models.clip import CLIP
from hub_models.store import CheckpointError

STEM = "captioning"
PAGE = Page(
    stem="captioning",
    title="Put it into words",
    sentence="A decoder looks at the patches of your picture and says what it shows, word by word: emoji has seen drawings "
    "only, photo has seen photographs.",
    card="A captioner writes what it sees. Press a word to see where it looked, or let CLIP judge lines of your own.",
    short="Captions, and where each word was looked up",
    models=("emoji", "photo"),
    gpu_seconds=10,  # its longest work, 200 lines to rank, measured at 0.6 s of one CPU thread
    call="captioning_caption",
    also=("clip",),
)
MODELS = list(PAGE.models)
RANKER = "clip="  # before the name of a dual encoder, among the names of models
EXAMPLES = Path(__file__).parent / "examples" / STEM

GREEDY, BEAMS, NUCLEUS = "Greedy", "Beams", "Nucleus"
DECODINGS = (GREEDY, BEAMS, NUCLEUS)
MAX_SEQUENCES = captioning.MAX_SEQUENCES  # captions, and beams
BEAM_COUNT, CAPTION_COUNT, TOP_P = 5, 3, 0.9
TEMPERATURES, TOP_PS = (0.1, 3), (0.05, 1)
MAX_LINES, MAX_LINE = 200, 300  # to rank, and characters of each
MAP_PX = 560
OPACITY = 65
LOOKED, COVERED = "Where it looked", "What was covered"
KEPT = 32  # pictures with words whose evidence is kept
DEADLINE_SECONDS = 120

# Viridis (van der Walt & Smith 2015), every eighth of it: lightness only rises, to the colour-blind as to everybody.
VIRIDIS = np.array([(68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141), (39, 173, 129), (92, 200, 99),
                    (170, 220, 50), (253, 231, 37)], np.float32)  # fmt: skip


def load_models(names: Sequence[str]) -> dict[str, Captioner | CLIP | CheckpointError]:
    """Each named model, or the error in its place; a dual encoder under RANKER and its name."""
    captioners = [name for name in names if not name.startswith(RANKER)] or MODELS
    rankers = [name for name in names if name.startswith(RANKER)] or [f"{RANKER}emoji"]
    found = ui.load_each(captioning.load, captioners)
    return found | ui.load_each(lambda name: clip.load(name.removeprefix(RANKER)), rankers[:1])


# ---- what to say, checked ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """A picture to caption, and how. `settings` are arguments of `Captioner.caption`."""

    model: Captioner
    picture: Image.Image
    settings: dict

    @property
    def seed(self) -> int | None:
        return self.settings.get("seed")


def longest(model: Captioner) -> int:
    """The most tokens that a caption can be asked to have."""
    return min(captioning.NEW_TOKENS, model.max_length - 1)


def check_text(model: Captioner, value, name: str) -> str:
    """The text without what nobody sees in it. Raises ui.InputError, with the limit, where the decoder can't read all."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ui.InputError(f"{name} must be text.")
    try:
        text = texts.one_line(value) if len(value) <= captioning.MAX_TEXT else value
        model.prefix_tokens(text)
    except ValueError as error:
        raise ui.InputError(html.escape(f"{name}: {error}.")) from error
    return text


def check_order(model: Captioner, path, decoding, beams, count, length, temperature, top_p, prefix, seed) -> Order:
    """The order that raw parameters stand for; gr.Error names what is wrong with the first that is."""
    decoding = ui.choice(decoding, "Decoding", DECODINGS)
    beams = ui.number(beams, "Beams", 1, MAX_SEQUENCES, integer=True)
    count = ui.number(count, "Captions", 1, MAX_SEQUENCES, integer=True)
    length = ui.number(length, "Longest, in tokens,", 1, longest(model), integer=True)
    temperature, top_p = ui.number(temperature, "Temperature", *TEMPERATURES), ui.number(top_p, "Top-p", *TOP_PS)
    seed = ui.typed_seed(seed)
    settings = {"max_new_tokens": length, "prefix": check_text(model, prefix, "The beginning")}
    if decoding == BEAMS:
        if count > beams:
            raise ui.InputError(f"Captions must be a whole number from 1 to {beams}, the number of beams.")
        settings |= {"num_beams": beams, "num_return_sequences": count}
    if decoding == NUCLEUS:
        settings |= {"do_sample": True, "num_return_sequences": count, "temperature": temperature, "top_p": top_p,
                     "seed": seed}  # fmt: skip
    return Order(model, pictures.read_picture(path), settings)


def check_lines(value) -> list[str]:
    """The lines of a text that have something in them, each once. Raises ui.InputError, which names the limits."""
    if not isinstance(value, str):
        raise ui.InputError("Lines must be text, one sentence a line.")
    try:
        texts.check(value, "The list of lines")
    except texts.TooLong as error:
        raise ui.InputError(str(error)) from error
    if value.count("\n") >= 10 * MAX_LINES:
        raise ui.InputError(f"{value.count(chr(10)) + 1:,} lines to rank, at most {MAX_LINES} are: leave some out.")
    if (most := max(map(len, value.splitlines()), default=0)) > 4 * MAX_LINE:  # with all that nobody sees
        raise ui.InputError(f"A line has {most:,} characters, at most {MAX_LINE} are ranked: shorten it.")
    lines = list(dict.fromkeys(line for line in map(texts.one_line, value.splitlines()) if line))
    if not lines:
        raise ui.InputError(f"Write what to rank first: 1 to {MAX_LINES} lines, one sentence a line.")
    if len(lines) > MAX_LINES:
        raise ui.InputError(f"{len(lines):,} lines to rank, at most {MAX_LINES} are: leave some out.")
    if (most := max(map(len, lines))) > MAX_LINE:
        raise ui.InputError(f"A line has {most:,} characters, at most {MAX_LINE} are ranked: shorten it.")
    return lines


# ---- what is computed -------------------------------------------------------------------------------------------------


def watch(stop: threading.Event) -> Callable[[], None]:
    """What to call after every step of some work: raises ui.InputError once `stop` is set or time is out."""
    started, left = time.monotonic(), visitors.left()

    def look() -> None:
        if stop.is_set() or left():
            raise ui.InputError("Stopped.")
        if time.monotonic() - started > DEADLINE_SECONDS:
            raise ui.InputError(
                f"Out of time ({DEADLINE_SECONDS} s): ask for fewer beams or captions, or shorter ones."
            )

    return look


@dataclass(frozen=True)
class Said:
    """What a model said of the picture in a file, best first; what is equal once, with how often it was said."""

    name: str
    path: str
    captions: list[Caption]
    times: list[int]


def say(order: Order, name: str, path: str, stop: threading.Event) -> Said:
    captions = order.model.caption(order.picture, on_step=watch(stop), **order.settings)
    texts = [caption.text for caption in captions]
    first = [texts.index(text) for text in dict.fromkeys(texts)]
    return Said(name, path, [captions[at] for at in first], [texts.count(texts[at]) for at in first])


@dataclass(frozen=True)
class Looked:
    """A picture as the model sees it, a caption of it, and the evidence for its words."""

    seen: Image.Image  # RGB, square
    caption: Caption
    words: list[Evidence]

    def log_prob(self, word: int) -> float:
        """Of the word, given those before it."""
        return sum(self.caption.token_log_probs[self.caption.words[word][1]])


class Recent:
    """The last evidences, KEPT at most: the words of a caption come back to theirs."""

    def __init__(self):
        self._kept: OrderedDict[tuple, Looked] = OrderedDict()
        self._lock = threading.Lock()

    def look(self, model: Captioner, path: str | None, caption: Caption, stop: threading.Event) -> Looked:
        """The evidence for the words of a caption, computed where it is not here; paths of uploads name their content."""
        key = (model.name, model.weights_sha256, path, tuple(caption.tokens))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        picture = pictures.read_picture(path)
        looked = Looked(model.seen(picture), caption, model.evidence(picture, caption, on_step=watch(stop)))
        with self._lock:
            self._kept[key] = looked
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return looked


def ranked(eye: CLIP, path: str | None, text) -> tuple[list[tuple[str, float]], list[str]]:
    """The lines with their probabilities, most probable first, and a sentence for what CLIP can't read whole."""
    lines = check_lines(text)
    cut = sum(eye.was_cut(line) for line in lines)
    said = (
        [f"{cut} of the lines are longer than the {eye.max_length} tokens that CLIP reads: their ends are lost."]
        if cut
        else []
    )
    return eye.rank(pictures.read_picture(path), lines), said


# ---- pictures ---------------------------------------------------------------------------------------------------------


def colours(values: np.ndarray) -> np.ndarray:
    """Viridis for values in [0, 1] of any shape: float32 (…, 3)."""
    places = np.linspace(0, 1, len(VIRIDIS))
    return np.stack([np.interp(values, places, channel) for channel in VIRIDIS.T], -1).astype(np.float32)


def heat_map(seen: Image.Image, attention: np.ndarray, patches: np.ndarray, opacity: float) -> Image.Image:
    """What the model sees under its attention (h, w) at `opacity` percent; a line around the patches, bool (h, w)."""
    base = seen.resize((MAP_PX, MAP_PX), Image.Resampling.BICUBIC)
    grey = np.asarray(base.convert("L"), np.float32)[..., None]
    ground = np.asarray(base, np.float32) * (1 - opacity / 100) + grey * opacity / 100  # (MAP_PX, MAP_PX, 3)
    smooth = Image.fromarray(attention.astype(np.float32)).resize((MAP_PX, MAP_PX), Image.Resampling.BICUBIC)
    coloured = colours(np.asarray(smooth).clip(0, 1))
    mixed = ground + opacity / 100 * (coloured - ground)
    return outlined(Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8)), patches)


def covered_picture(seen: Image.Image, patches: np.ndarray) -> Image.Image:
    """What the model was shown to see what the word is worth without it."""
    picture = captioning.covered(seen, patches)
    return outlined(picture.resize((MAP_PX, MAP_PX), Image.Resampling.NEAREST), patches)


def outlined(image: Image.Image, patches: np.ndarray) -> Image.Image:
    """The picture with a line, white on black so that it is seen on any ground, around the patches, bool (h, w)."""
    draw, walls = ImageDraw.Draw(image), np.pad(patches, 1)
    xs, ys = (np.rint(np.linspace(0, side - 1, count + 1)).astype(int) for side, count in zip(image.size, patches.shape[::-1], strict=True))  # fmt: skip
    across = walls[1:, 1:-1] != walls[:-1, 1:-1]  # (h + 1, w): above row y
    down = walls[1:-1, 1:] != walls[1:-1, :-1]  # (h, w + 1): left of column x
    lines = [(xs[x], ys[y], xs[x + 1], ys[y]) for y, x in np.argwhere(across)]
    lines += [(xs[x], ys[y], xs[x], ys[y + 1]) for y, x in np.argwhere(down)]
    for colour, width in (("black", 7), ("white", 3)):
        for line in lines:
            draw.line([int(at) for at in line], fill=colour, width=width)
    return image


# ---- words ------------------------------------------------------------------------------------------------------------


def chance(log_prob: float) -> str:
    """A probability in words: "62 %", "0.31 %", "1 in 48 million", "10⁻²⁰"."""
    share = math.exp(min(log_prob, 0.0))
    if share >= 0.0995:
        return f"{share:.0%}".replace("%", " %")
    if share >= 0.000995:
        return f"{100 * share:.2g} %"
    power = -log_prob / math.log(10)
    if power >= 12:
        return "10⁻" + str(round(power)).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    one_in = 10**power
    for size, name in ((1e9, " billion"), (1e6, " million")):
        if one_in >= 0.9995 * size:
            return f"1 in {float(f'{one_in / size:.2g}'):,.10g}{name}"
    return f"1 in {float(f'{one_in:.2g}'):,.0f}"


def a_token(caption: Caption) -> float:
    """The mean probability of a token (geometric): comparable between captions of any length."""
    return math.exp(caption.log_prob / max(len(caption.tokens), 1))


def worth(looked: Looked, word: int) -> str:
    """A sentence on what covering the region that the word points at does to it."""
    evidence, before = looked.words[word], looked.log_prob(word)
    said = f"“{evidence.word}” has a probability of {chance(before)}"
    if evidence.drop is None:
        return f"{said}. This model shows no attention over a grid of patches, so there is no map."
    times, after = math.exp(min(abs(evidence.drop), 700)), chance(before - evidence.drop)
    if times < 1.05:
        return f"{said}, and {after} when the outlined region is covered: the word hardly hangs on it."
    factor = f"{times:.1f}" if times < 10 else f"{times:,.0f}" if times < 1e6 else "over a million"
    less = "less" if evidence.drop > 0 else "more"
    return f"{said}. With the outlined region covered it is {after}: {factor} times {less} probable."


COPY = """<svg viewBox="0 0 24 24" aria-hidden="true"><rect x="9" y="9" width="11" height="11" rx="2"/><path d="M5 15V6a2 2 0 0 1 2-2h9"/></svg>"""


def captions_html(said: Said | None, chosen: int = 0) -> str:
    """A button for each caption, with its probability; the chosen one is pressed."""
    if said is None:
        return ui.blank("Choose a picture: what it shows comes here, with how sure the model is.")
    rows = []
    for at, caption in enumerate(said.captions):
        times = f'<span class="times">said {said.times[at]} times</span>' if said.times[at] > 1 else ""
        text = html.escape(caption.text) or "<i>(nothing)</i>"
        mean = a_token(caption)
        rows.append(
            f'<li><button type="button" class="say" data-caption="{at}" data-key="c{at}" aria-pressed="{str(at == chosen).lower()}">'
            f'<span class="text">{text}</span><span class="meter" aria-hidden="true"><i style="width:{100 * mean:.1f}%"></i></span>'
            f'<span class="how"><b>{chance(caption.log_prob)}</b> as a whole · {chance(math.log(mean))} a token{times}</span></button>'
            f'<button type="button" class="copy" data-key="y{at}" data-copy="{html.escape(caption.text)}" aria-label="Copy caption {at + 1}" '
            f'title="Copy">{COPY}</button></li>'
        )
    return f'<ol class="captions" aria-label="Captions, best first">{"".join(rows)}</ol>'


def words_html(caption: Caption | None, looked: Looked | None = None, word: int | None = None) -> str:
    """A button for each word of the caption; once looked at, a bar under each says how much hangs on its region."""
    if caption is None:
        return '<div class="words"><p>The words of the caption come here.</p></div>'
    if not caption.words:
        return '<div class="words"><p>This caption has no words.</p></div>'
    most = max((abs(each.drop) for each in looked.words if each.drop is not None), default=0) if looked else 0
    chips = []
    for at, (text, place) in enumerate(caption.words):
        chips.append(
            f'<button type="button" data-word="{at}" data-key="w{at}" aria-pressed="{str(at == word).lower()}" '
            f'title="{chance(sum(caption.token_log_probs[place]))}">{html.escape(text) or "␣"}'
        )
        if most > 0 and looked.words[at].drop is not None:
            drop = looked.words[at].drop
            share, kind = abs(drop) / max(most, 1), "less" if drop > 0 else "more"
            chips.append(f'<i class="{kind}" style="width:{100 * share:.0f}%"></i>')
        chips.append("</button>")
    return f'<div class="words" role="group" aria-label="Words of the caption">{"".join(chips)}</div>'


def ranking_html(ranking: Sequence[tuple[str, float]] | None) -> str:
    """A bar for each line, most probable first."""
    if ranking is None:
        return ui.blank("Your lines come here, the most fitting first.")
    rows = "".join(
        f'<li><span class="text">{html.escape(text)}</span><b>{chance(math.log(max(share, 1e-300)))}</b>'
        f'<span class="meter" role="img" aria-label="{share:.1%}"><i style="width:{100 * share:.1f}%"></i></span></li>'
        for text, share in ranking
    )
    text = html.escape("\n".join(f"{share:.4f}\t{text}" for text, share in ranking))
    return (
        f'<ol class="ranking" aria-label="Your lines, best first">{rows}</ol>'
        f'<div class="foot"><span>Shares of these lines alone: they add up to 100 %, also when none fits.</span>'
        f'<button type="button" class="copy wide" data-copy="{text}">{COPY}Copy as a table</button></div>'
    )


def card(model: Captioner, seconds: float | None = None) -> str:
    """HTML: what the model is, its weights' hash, device, and the measured time of the last answer."""
    answered = (
        "no picture yet" if seconds is None else f"{seconds:.1f} s" if seconds >= 10 else f"{seconds * 1000:.0f} ms"
    )
    return ui.facts(
        {
            "Answered in": answered,
            "Model": model.kind,
            "Sees": f"{model.resolution_px} × {model.resolution_px} px",
            "Parameters": f"{model.parameters / 1e6:.1f} M",
            "Weights": model.weights_sha256[:12],
            "Device": ui.device_line({model.name: model}),
        }
    )


def said_of(caption: Caption) -> dict:
    """A caption for programs."""
    return {
        "text": caption.text,
        "probability": caption.probability,
        "log_prob": round(caption.log_prob, 5),
        "words": [
            {"word": word, "log_prob": round(sum(caption.token_log_probs[place]), 5)} for word, place in caption.words
        ],
    }


# ---- the page ---------------------------------------------------------------------------------------------------------

LIST_CSS = """
ol { list-style: none; margin: 0; padding: 0; display: flex; flex-direction: column; gap: 8px; }
li { margin: 0; }
.captions li { display: flex; align-items: stretch; gap: 6px; }
.say { flex: 1; min-width: 0; display: grid; gap: 5px; padding: 10px 14px; margin: 0; text-align: left; cursor: pointer;
  border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); background: var(--background-fill-primary);
  color: var(--body-text-color); font-weight: 400; }
.say:hover { border-color: var(--primary-600); }
.say[aria-pressed="true"] { border-color: var(--primary-600); box-shadow: inset 0 0 0 1px var(--primary-600); }
.say .text { font-size: 1.05rem; line-height: 1.4; overflow-wrap: anywhere; }
.say[aria-pressed="true"] .text { font-weight: 500; }
.how { font-size: 0.8rem; color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.how b { font-weight: 600; color: var(--body-text-color); }
.times { margin-left: 0.6em; padding: 0 7px; border-radius: 999px; border: 1px solid var(--border-color-primary); }
.meter { display: block; height: 5px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden; }
.meter i { display: block; height: 100%; background: var(--primary-600); border-radius: 3px; }
.copy { display: inline-grid; place-items: center; width: 40px; margin: 0; padding: 0; cursor: pointer; background: none;
  border: 1px solid transparent; border-radius: var(--radius-lg); color: var(--body-text-color-subdued); }
.copy:hover { border-color: var(--border-color-primary); color: var(--body-text-color); }
.copy svg { width: 18px; height: 18px; fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linecap: round; }
.copy[data-done] { color: var(--primary-600); border-color: var(--primary-600); }
.copy.wide { display: inline-flex; width: auto; gap: 7px; align-items: center; padding: 5px 10px; font-size: 0.85rem;
  border-color: var(--border-color-primary); white-space: nowrap; flex: none; font-weight: 400; }
.ranking li { display: grid; grid-template-columns: 1fr auto; gap: 4px 12px; padding: 4px 0; }
.ranking .text { overflow-wrap: anywhere; min-width: 0; }
.ranking b { font-weight: 600; font-variant-numeric: tabular-nums; }
.ranking .meter { grid-column: 1 / -1; height: 10px; border-radius: 5px; }
.ranking .meter i { border-radius: 5px; }
.foot { display: flex; flex-wrap: wrap; gap: 8px 16px; align-items: center; justify-content: space-between; margin: 12px 0 0;
  font-size: 0.85rem; color: var(--body-text-color-subdued); }
"""

WORDS_CSS = """
.words { display: flex; flex-wrap: wrap; gap: 6px; min-height: 40px; align-items: center; }
.words p { margin: 0; color: var(--body-text-color-subdued); font-size: 0.9rem; }
.words button { position: relative; min-height: 38px; min-width: 38px; padding: 5px 12px 7px; margin: 0; cursor: pointer;
  border-radius: var(--radius-md); border: 1px solid var(--border-color-primary); background: var(--background-fill-primary);
  color: var(--body-text-color); font-size: 1rem; font-weight: 400; line-height: 1.3;
  overflow: hidden; }
.words button:hover { border-color: var(--primary-600); }
.words button[aria-pressed="true"] { background: var(--primary-700); border-color: var(--primary-700); color: white; }
.words i { position: absolute; left: 0; bottom: 0; height: 4px; background: var(--primary-600); }
.words i.more { background: #c2620e; }
.words button[aria-pressed="true"] i { background: white; }
"""

# One script for all lists of buttons: a press goes to Python or copies; a list drawn anew keeps the focus where it was.
PRESS_JS = """
let key = null;
element.addEventListener('click', async (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  if (button.dataset.copy === undefined) {
    key = button.dataset.key;
    trigger('click', { caption: Number(button.dataset.caption), word: Number(button.dataset.word) });
    return;
  }
  try { await navigator.clipboard.writeText(button.dataset.copy); }
  catch {
    const area = Object.assign(document.createElement('textarea'), { value: button.dataset.copy });
    document.body.append(area); area.select(); document.execCommand('copy'); area.remove(); button.focus();
  }
  button.dataset.done = ''; button.setAttribute('aria-label', 'Copied');
  setTimeout(() => { delete button.dataset.done; button.setAttribute('aria-label', 'Copy'); }, 1500);
});
watch('value', () => {
  const active = document.activeElement;
  if (key && (!active || active === document.body || element.contains(active))) element.querySelector(`[data-key="${key}"]`)?.focus();
  key = null;
});
"""

SCALE_CSS = """
.scale { display: grid; grid-template-columns: auto 1fr auto; gap: 8px; align-items: center; font-size: 0.8rem;
  color: var(--body-text-color-subdued); }
.scale i { height: 10px; border-radius: 5px; background: linear-gradient(to right, STOPS); }
""".replace("STOPS", ", ".join("rgb({:.0f} {:.0f} {:.0f})".format(*colour) for colour in VIRIDIS))
SCALE = '<div class="scale"><span>no</span><i></i><span>most attention</span></div>'

WAITING = "Choose a picture first."
PRESS_WORD = "Press a word of the caption to see where the model looked for it."
LINES = "a smiling face\na red car\na slice of pizza"


def build(models: dict[str, Captioner | CLIP | CheckpointError]) -> gr.Blocks:
    """The page over these models; a CheckpointError in a model's place becomes a card that names the cause.

    Names that begin with RANKER are dual encoders, the first of which ranks.
    """
    captioners = {name: model for name, model in models.items() if not name.startswith(RANKER)}
    rankers = {name: model for name, model in models.items() if name.startswith(RANKER)}
    ready = {name: model for name, model in captioners.items() if not isinstance(model, Exception)}
    eye = next((model for model in rankers.values() if not isinstance(model, Exception)), None)
    with ui.blocks("Put it into words · Vitrail") as page:
        ui.heading(
            "Put it into words",
            "A decoder looks at the patches of your picture and says what it shows, word by word: emoji has seen drawings "
            "only, photo has seen photographs.",
        )
        for name, error in captioners.items():
            if name not in ready:
                ui.degraded(name, error)
        if not ready and eye is None:
            for name, error in rankers.items():
                ui.degraded(f"CLIP “{name.removeprefix(RANKER)}”", error)
            return page
        _Page(page, ready, rankers)
    return page


class _Page:
    """The parts of the page and their events, over models that are loaded: captioners, and an eye to rank with."""

    def __init__(self, page: gr.Blocks, models: dict[str, Captioner], rankers: dict[str, CLIP | CheckpointError]):
        self.page, self.models, self.rankers = page, models, rankers
        self.eye = next((model for model in rankers.values() if not isinstance(model, Exception)), None)
        self.recent, self.flags = Recent(), ui.StopFlags()
        self.one = {"concurrency_id": STEM, "concurrency_limit": 1}
        self.quiet = self.one | ui.HIDDEN
        self.latest = {"trigger_mode": "always_last"} | self.quiet
        with gr.Row(elem_classes="v-columns", equal_height=False):
            with gr.Column(scale=5, min_width=300):
                self._picture_part()
            with gr.Column(scale=8, min_width=320), gr.Tabs():
                if self.models:
                    with gr.Tab("What does it show?"):
                        self._caption_part()
                with gr.Tab("Which text fits?"):
                    self._rank_part()
        if self.models:
            self._caption_events()
            self._caption_endpoints()
        if self.eye:
            self._rank_events()

    # What stands where

    def _picture_part(self) -> None:
        self.box = pictures.picture_input("Your picture", height=300, elem_id="captioning-picture")
        index = EXAMPLES / "index.json"
        examples = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else []
        if examples:
            with gr.Column(elem_classes="v-examples"):
                gr.Examples(
                    [[str(EXAMPLES / row["file"])] for row in examples],
                    self.box,
                    label="Or one of these: no model was trained on them",
                    examples_per_page=len(examples),
                    api_name="captioning_example",
                    api_visibility="private",
                )
                credits = " · ".join(dict.fromkeys(row["credit"] for row in examples))
                gr.HTML(html.escape(credits), elem_classes="v-credits", padding=False)
            ui.name_examples(self.page, [row["name"] for row in examples])

    def _caption_part(self) -> None:
        with gr.Column(elem_classes="v-card"):
            self.model_name = gr.Radio(
                list(self.models), value=next(iter(self.models)), label="Model", show_label=False, container=False,
                elem_classes="chips", visible=len(self.models) > 1, elem_id="captioning-model",
            )  # fmt: skip
            with gr.Row(equal_height=True):
                self.decoding = gr.Radio(
                    DECODINGS, value=GREEDY, label="Decoding", show_label=False, container=False, elem_classes="chips",
                    scale=5, min_width=250, elem_id="captioning-decoding",
                )  # fmt: skip
                self.ask = gr.Button("Caption it", variant="primary", scale=2, min_width=110, elem_id="captioning-ask")
                self.stop = gr.Button(
                    "Stop", variant="stop", scale=1, min_width=80, interactive=False, elem_id="captioning-stop"
                )
            with gr.Accordion("How it is said", open=False, elem_id="captioning-options"):
                self._options()
            self.list = gr.HTML(
                captions_html(None),
                css_template=LIST_CSS,
                js_on_load=PRESS_JS,
                padding=False,
                elem_id="captioning-list",
            )
            self.status = gr.HTML(ui.status(WAITING), padding=False, elem_id="captioning-status")
        with gr.Column(elem_classes="v-card"):
            self._look_card()
        ui.as_sent(self.model_name, self.decoding, self.prefix, self.beams, self.count, self.length, self.temperature)
        ui.as_sent(self.top_p, self.seed, self.opacity, self.view)
        self.said, self.chosen, self.word = gr.State(None, time_to_live=3600), gr.State(0), gr.State(None)

    def _options(self) -> None:
        most = longest(self._first)
        self.prefix = gr.Textbox(
            label="Begin with", placeholder="a picture of", info="The model goes on from there.", max_lines=1,
            elem_id="captioning-prefix",
        )  # fmt: skip
        with gr.Row():
            self.beams = gr.Slider(
                1,
                MAX_SEQUENCES,
                BEAM_COUNT,
                step=1,
                label="Beams",
                visible=False,
                min_width=160,
                elem_id="captioning-beams",
            )
            self.count = gr.Slider(
                1, MAX_SEQUENCES, CAPTION_COUNT, step=1, label="Captions", visible=False, min_width=160,
                elem_id="captioning-count",
            )  # fmt: skip
            self.length = gr.Slider(
                1, most, most, step=1, label="Longest, tokens", min_width=160, elem_id="captioning-length"
            )
        with gr.Row():
            self.temperature = gr.Slider(
                *TEMPERATURES, 1, step=0.05, label="Temperature", visible=False, min_width=160,
                elem_id="captioning-temperature",
            )  # fmt: skip
            self.top_p = gr.Slider(
                *TOP_PS, TOP_P, step=0.05, label="Top-p", visible=False, min_width=160, elem_id="captioning-top-p"
            )
        with gr.Row():
            self.seed = gr.Textbox(
                "0", label="Seed", visible=False, max_lines=1, min_width=160, elem_id="captioning-seed"
            )
            self.fresh = gr.Checkbox(True, label="New seed every time", visible=False, min_width=160)

    def _look_card(self) -> None:
        ui.subheading("Where did it look?", "Press a word. The bars then say how much each hangs on its own region.")
        self.words = gr.HTML(
            words_html(None), css_template=WORDS_CSS, js_on_load=PRESS_JS, padding=False, elem_id="captioning-words"
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=260):
                self.map = pictures.picture_output(
                    "Where the model looked for the word", height=340, elem_id="captioning-map"
                )
            with gr.Column(scale=4, min_width=220):
                self.worth = gr.HTML(ui.status(PRESS_WORD), padding=False, elem_id="captioning-worth")
                self.view = gr.Radio(
                    [LOOKED, COVERED], value=LOOKED, label="View", show_label=False, container=False,
                    elem_classes="chips", elem_id="captioning-view",
                )  # fmt: skip
                self.opacity = gr.Slider(0, 100, OPACITY, step=1, label="Opacity, %", elem_id="captioning-opacity")
                gr.HTML(SCALE, css_template=SCALE_CSS, padding=False)
                self.facts = gr.HTML(card(self._first), padding=False)

    def _rank_part(self) -> None:
        with gr.Column(elem_classes="v-card"):
            ui.subheading(
                "Your own lines", "CLIP says which of them fits the picture best, and how sure it is of that."
            )
            if self.eye is None:
                for name, error in self.rankers.items():
                    ui.degraded(f"CLIP “{name.removeprefix(RANKER)}”", error)
                if not self.rankers:
                    ui.degraded("CLIP", CheckpointError(f"none was named: start the page with --model {RANKER}FOLDER"))
                return
            self.lines = gr.Textbox(
                LINES, label="One a line", lines=5, max_lines=14, elem_id="captioning-lines",
                info=f"Up to {MAX_LINES} lines of {MAX_LINE} characters.",
            )  # fmt: skip
            ui.as_sent(self.lines)
            self.rank = gr.Button("Rank them", variant="primary", elem_id="captioning-rank")
            self.ranking = gr.HTML(
                ranking_html(None), css_template=LIST_CSS, js_on_load=PRESS_JS, padding=False,
                elem_id="captioning-ranking",
            )  # fmt: skip
            self.rank_status = gr.HTML(ui.status(""), padding=False, elem_id="captioning-rank-status")

    # What happens when

    @property
    def _first(self) -> Captioner:
        return next(iter(self.models.values()))

    @property
    def _how(self) -> list:
        """The inputs of check_order after the picture."""
        return [
            self.decoding,
            self.beams,
            self.count,
            self.length,
            self.temperature,
            self.top_p,
            self.prefix,
            self.seed,
        ]

    @property
    def _answer(self) -> list:
        """All that shows what the model said."""
        return [self.list, self.status, self.words, self.map, self.worth, self.facts, self.said, self.chosen, self.word]

    def _model(self, name) -> Captioner:
        return self.models[ui.choice(name, "Model", self.models)]

    def _emptied(self, name, status: str = WAITING) -> list:
        model = self.models.get(name, self._first) if isinstance(name, str) else self._first
        return [
            captions_html(None),
            ui.status(status),
            words_html(None),
            None,
            ui.status(PRESS_WORD),
            card(model),
            None,
            0,
            None,
        ]

    def _picture(self, looked: Looked, word: int, view, opacity) -> str | None:
        """The path of the map of a word, None where there is none."""
        view, opacity = ui.choice(view, "View", (LOOKED, COVERED)), check_percent(opacity)
        evidence = looked.words[word]
        if evidence.attention is None:
            return None
        if view == COVERED:
            return shown_file(covered_picture(looked.seen, evidence.covered))
        return shown_file(heat_map(looked.seen, evidence.attention, evidence.covered, opacity))

    def _caption_events(self) -> None:
        def begin(path, request: gr.Request):
            self.flags.set(request.session_hash)  # nobody waits for what was asked before
            self.flags.arm(request.session_hash)
            waiting = ui.status("Looking for words …" if path else WAITING, 0 if path else None)
            return waiting, gr.Button(interactive=path is not None)

        def halt(request: gr.Request):
            self.flags.set(request.session_hash)

        def caption(path, name, fresh, *how_and_request):
            *how, request = how_and_request
            if path is None:
                return [*self._emptied(name), gr.skip(), gr.skip()]
            model, started = self._model(name), time.perf_counter()
            if fresh:
                how = [*how[:-1], None]
            order, flag = check_order(model, path, *how), self.flags.get(request.session_hash)
            said = say(order, name, path, flag)
            seconds = time.perf_counter() - started
            seed = "" if order.seed is None else f" Seed {order.seed}."
            best = said.captions[0]
            count = len(best.tokens)
            text = f"{name}, {how[0].lower()}: {count} tokens in {1000 * seconds:,.0f} ms.{seed}"
            shown = gr.skip() if order.seed is None else str(order.seed)
            return [captions_html(said), ui.status(text), words_html(best), None, ui.status(PRESS_WORD),
                    card(model, seconds), said, 0, None, gr.Button(interactive=False), shown]  # fmt: skip

        def asked(
            path, name, fresh, decoding, beams, count, length, temperature, top_p, prefix, seed, request: gr.Request
        ):
            return caption(path, name, fresh, decoding, beams, count, length, temperature, top_p, prefix, seed, request)

        def choose(said, event: gr.EventData):
            if said is None:
                return [gr.skip()] * 6
            at = ui.number(event.caption, "Caption", 0, len(said.captions) - 1, integer=True)
            return captions_html(said, at), words_html(said.captions[at]), None, ui.status(PRESS_WORD), at, None

        def press(said, at, view, opacity, event: gr.EventData, request: gr.Request):
            if said is None:
                return [gr.skip()] * 4
            caption = said.captions[ui.number(at, "Caption", 0, len(said.captions) - 1, integer=True)]
            word = ui.number(event.word, "Word", 0, len(caption.words) - 1, integer=True)
            looked = self.recent.look(self._model(said.name), said.path, caption, self.flags.arm(request.session_hash))
            text = ui.status(worth(looked, word))
            return words_html(caption, looked, word), self._picture(looked, word, view, opacity), text, word

        def repaint(said, at, word, view, opacity, request: gr.Request):
            if said is None or word is None:
                return gr.skip()
            caption, flag = said.captions[at], self.flags.get(request.session_hash)
            return self._picture(
                self.recent.look(self._model(said.name), said.path, caption, flag), word, view, opacity
            )

        def fit_to_decoding(decoding):
            beams, nucleus = decoding == BEAMS, decoding == NUCLEUS
            shown = (beams, beams or nucleus, nucleus, nucleus, nucleus, nucleus)
            return [gr.update(visible=each) for each in shown]

        def fit_to_model(name):
            most = longest(self._model(name))
            return gr.Slider(maximum=most, value=most)

        asking = [self.box, self.model_name, self.fresh, *self._how]
        waiting, done = [self.status, self.stop], [*self._answer, self.stop]
        self.decoding.change(
            fit_to_decoding, self.decoding, [self.beams, self.count, self.temperature, self.top_p, self.seed, self.fresh],
            queue=False, **ui.HIDDEN,
        )  # fmt: skip
        self.model_name.input(fit_to_model, self.model_name, self.length, queue=False, **ui.HIDDEN)
        begun = gr.on(
            [self.box.change, self.ask.click, self.prefix.submit, self.decoding.input, self.model_name.input],
            begin, self.box, waiting, queue=False, **ui.HIDDEN,
        )  # fmt: skip
        answered = begun.then(asked, asking, [*done, self.seed], **self.latest)
        answered.failure(
            lambda name: [*self._emptied(name, "Nothing was said: the message says why."), gr.Button(interactive=False)],
            self.model_name, done, queue=False, **ui.HIDDEN,
        )  # fmt: skip
        self.stop.click(halt, None, None, queue=False, **ui.HIDDEN)
        self.page.unload(halt)
        self.list.click(
            choose, self.said, [self.list, self.words, self.map, self.worth, self.chosen, self.word], queue=False,
            **ui.HIDDEN,
        )  # fmt: skip
        look = [self.said, self.chosen, self.view, self.opacity]
        self.words.click(press, look, [self.words, self.map, self.worth, self.word], **self.quiet)
        gr.on(
            [self.view.input, self.opacity.change], repaint, [self.said, self.chosen, self.word, self.view, self.opacity],
            self.map, **self.latest,
        )  # fmt: skip

    def _rank_events(self) -> None:
        def rank(path, text):
            started = time.perf_counter()
            ranking, said = ranked(self.eye, path, text)
            milliseconds = 1000 * (time.perf_counter() - started)
            return ranking_html(ranking), ui.status(
                " ".join([f"{len(ranking)} lines in {milliseconds:,.0f} ms.", *said])
            )

        def captioning_rank(picture, lines):
            """Which text fits the picture: the lines with their probabilities, best first; they add up to 1.

            Parameters:
                picture: a picture file
                lines: 1 to 200 texts of up to 300 characters, one a line; empty and repeated ones are left out
            """
            ranking, said = ranked(self.eye, picture, lines)
            rows = [{"text": text, "probability": share} for text, share in ranking]
            return {"weights_sha256": self.eye.weights_sha256, "ranking": rows, "notices": said}

        shown = [self.ranking, self.rank_status]
        asked = self.rank.click(rank, [self.box, self.lines], shown, **self.quiet)
        emptied = [ranking_html(None), ui.status("")]
        asked.failure(lambda: emptied, None, shown, queue=False, **ui.HIDDEN)
        self.box.change(lambda: emptied, None, shown, queue=False, **ui.HIDDEN)
        result = gr.JSON(label="Ranking", visible=False)
        gr.Button(visible=False).click(
            captioning_rank, [self.box, self.lines], result, api_name="captioning_rank", **self.one
        )

    # The same for programs

    def _caption_endpoints(self) -> None:
        def watched(request: gr.Request, work: Callable):
            try:
                return work(self.flags.arm(request.session_hash))
            finally:
                self.flags.drop(request.session_hash)

        def captioning_caption(
            picture, model, decoding, beams, count, length, temperature, top_p, prefix, seed, request: gr.Request
        ):
            """Captions of a picture with their probabilities, best first, and each word's own.

            Parameters:
                picture: a picture file
                model: the name of a loaded model
                decoding: "Greedy", "Beams" or "Nucleus"
                beams: of a beam search, 1 to 16
                count: how many captions, 1 to 16, of a beam search at most one a beam; a greedy one is alone
                length: at most so many tokens after the beginning, 1 to 64, or less where the decoder has less room
                temperature: of the draws of "Nucleus", 0.1 to 3
                top_p: "Nucleus" draws from the fewest tokens that hold this share of the probability, 0.05 to 1
                prefix: what the caption begins with
                seed: of "Nucleus", reduced modulo 2**63; -1 draws a fresh one
            """
            order = check_order(
                self._model(model), picture, decoding, beams, count, length, temperature, top_p, prefix, seed
            )
            captions = watched(
                request, lambda stop: order.model.caption(order.picture, on_step=watch(stop), **order.settings)
            )
            return {
                "model": order.model.name,
                "weights_sha256": order.model.weights_sha256,
                "seed": None if order.seed is None else str(order.seed),
                "captions": [said_of(caption) for caption in captions],
            }

        def captioning_evidence(picture, model, text, word, opacity, request: gr.Request):
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
            loaded, opacity = self._model(model), check_percent(opacity)
            text = check_text(loaded, text, "Text")
            seen = pictures.read_picture(picture)
            if not text:
                raise ui.InputError("Text must have a word at least.")
            caption = loaded.score(seen, text)
            if not caption.words:
                raise ui.InputError("Text must have a word at least that the model knows how to write.")
            word = ui.number(word, "Word", 0, len(caption.words) - 1, integer=True)
            looked = watched(request, lambda stop: self.recent.look(loaded, picture, caption, stop))
            rows = [
                {
                    "word": each.word,
                    "log_prob": round(looked.log_prob(at), 5),
                    "drop": None if each.drop is None else round(each.drop, 5),
                    "attention": None if each.attention is None else each.attention.round(4).tolist(),
                    "covered": None if each.covered is None else each.covered.astype(int).tolist(),
                }
                for at, each in enumerate(looked.words)
            ]
            said = {"model": loaded.name, "text": caption.text, "log_prob": round(caption.log_prob, 5), "words": rows}
            return self._picture(looked, word, LOOKED, opacity), said

        painted, result = gr.File(label="Map", visible=False), gr.JSON(label="Result", visible=False)
        text, word = gr.Textbox(label="Text", visible=False), gr.Number(0, label="Word", visible=False)
        ui.as_sent(text, word)
        for function, inputs, outputs in (
            (captioning_caption, [self.box, self.model_name, *self._how], result),
            (captioning_evidence, [self.box, self.model_name, text, word, self.opacity], [painted, result]),
        ):
            gr.Button(visible=False).click(function, inputs, outputs, api_name=function.__name__, **self.one)


def check_percent(value) -> float:
    return ui.number(value, "Opacity, in percent,", 0, 100)


def shown_file(image: Image.Image) -> str:
    """The path of a picture for the page to show."""
    return ui.cached_file(pictures.png_bytes(image), "map.png")


def main() -> None:
    ui.run(PAGE, load_models, build)


if __name__ == "__main__":
    main()
