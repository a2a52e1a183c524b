"""What the page says of captions, of the worth of their words and of ranked lines, as HTML and for programs."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from apps.captioning.paint import Looked
from apps.kit import parts
from apps.kit.heat import STOPS
from hub_models.captioning import Caption, Captioner

COPY = (
    '<svg viewBox="0 0 24 24" aria-hidden="true"><rect x="9" y="9" width="11" height="11" rx="2"/>'
    '<path d="M5 15V6a2 2 0 0 1 2-2h9"/></svg>'
)
SCALE = (
    f'<div class="scale"><span>no</span><i style="background: linear-gradient(to right, {", ".join(STOPS)})"></i>'
    "<span>most attention</span></div>"
)


@dataclass(frozen=True)
class Said:
    """What a model said of the picture in a file, best first; what is equal once, with how often it was said."""

    name: str
    path: str
    captions: list[Caption]
    times: list[int]


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


def captions_html(said: Said | None, chosen: int = 0) -> str:
    """A button for each caption, with its probability; the chosen one is pressed."""
    if said is None:
        return parts.blank("Choose a picture: what it shows comes here, with how sure the model is.")
    rows = []
    for at, caption in enumerate(said.captions):
        text, mean, pressed = html.escape(caption.text), a_token(caption), str(at == chosen).lower()
        times = f'<span class="times">said {said.times[at]} times</span>' if said.times[at] > 1 else ""
        rows.append(
            f'<li><button type="button" class="say" data-caption="{at}" data-key="c{at}" aria-pressed="{pressed}">'
            f'<span class="text">{text or "<i>(nothing)</i>"}</span>'
            f'<span class="meter" aria-hidden="true"><i style="width:{100 * mean:.1f}%"></i></span>'
            f'<span class="how"><b>{chance(caption.log_prob)}</b> as a whole · {chance(math.log(mean))} a token{times}'
            f'</span></button><button type="button" class="copy" data-key="y{at}" data-copy="{text}" '
            f'aria-label="Copy caption {at + 1}" title="Copy">{COPY}</button></li>'
        )
    return f'<ol class="captions" aria-label="Captions, best first">{"".join(rows)}</ol>'


def words_html(caption: Caption | None, looked: Looked | None = None, word: int | None = None) -> str:
    """A button for each word of the caption; once looked at, a bar under each says how much hangs on its region."""
    if caption is None:
        return '<div class="words"><p>The words of the caption come here.</p></div>'
    if not caption.words:
        return '<div class="words"><p>This caption has no words.</p></div>'
    drops = [each.drop for each in looked.words] if looked else [None] * len(caption.words)
    most = max((abs(drop) for drop in drops if drop is not None), default=0)
    chips = []
    for at, ((text, place), drop) in enumerate(zip(caption.words, drops, strict=True)):
        bar = ""
        if most > 0 and drop is not None:
            kind = "less" if drop > 0 else "more"
            bar = f'<i class="{kind}" style="width:{100 * abs(drop) / max(most, 1):.0f}%"></i>'
        chips.append(
            f'<button type="button" data-word="{at}" data-key="w{at}" aria-pressed="{str(at == word).lower()}" '
            f'title="{chance(sum(caption.token_log_probs[place]))}">{html.escape(text) or "␣"}{bar}</button>'
        )
    return f'<div class="words" role="group" aria-label="Words of the caption">{"".join(chips)}</div>'


def ranking_html(ranking: Sequence[tuple[str, float]] | None) -> str:
    """A bar for each line, most probable first."""
    if ranking is None:
        return parts.blank("Your lines come here, the most fitting first.")
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
    return parts.model_facts(model, seconds, Model=model.kind, Sees=f"{model.resolution_px} × {model.resolution_px} px")


# ---- for programs ----------------------------------------------------------------------------------------------------


def said_of(caption: Caption) -> dict:
    """A caption, with each word's own probability."""
    words = [(word, round(sum(caption.token_log_probs[place]), 5)) for word, place in caption.words]
    return {
        "text": caption.text,
        "probability": caption.probability,
        "log_prob": round(caption.log_prob, 5),
        "words": [{"word": word, "log_prob": log_prob} for word, log_prob in words],
    }


def seen_of(looked: Looked) -> list[dict]:
    """The words of a caption, with what was seen for each: a row of numbers for each row of patches, or None."""
    return [
        {
            "word": each.word,
            "log_prob": round(looked.log_prob(at), 5),
            "drop": None if each.drop is None else round(each.drop, 5),
            "attention": None if each.attention is None else each.attention.round(4).tolist(),
            "covered": None if each.covered is None else each.covered.astype(int).tolist(),
        }
        for at, each in enumerate(looked.words)
    ]
