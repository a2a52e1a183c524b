"""What a drawing looks like from inside: the guesses that guidance sets against each other, and where words look.

Cross-attention is listened to and not changed: hooks on the stock layers compute the probabilities anew from what comes
in, so that the drawing is the same to the bit whether somebody listens or not.

Letters: B pictures, C × h × w the shape of a latent, L tokens, N queries of a layer (its places, row by row), g × g the
common grid.
"""

import contextlib
import re
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention

from hub_models.drawing import normalise_prompt

if TYPE_CHECKING:
    from hub_models.text_to_image.model import TextToImage

GRID = 16  # at most: of larger layers the mean of each cell, as Hertz et al. 2022 (Prompt-to-Prompt) look at 16 × 16
WORD = re.compile(r"[\w'’-]+|[^\w\s]+")
START, END = "start", "end and padding"  # what the text tower puts around a prompt


@dataclass(frozen=True)
class Inside:
    """What went in and came out of the U-Net in one step."""

    x_t: torch.Tensor  # (B, C, h, w) as the U-Net is shown it, of variance 1 under every sampler
    guesses: torch.Tensor | None  # (2, B, C, h, w): x0 without the prompt and with it; None where it was asked once
    attention: torch.Tensor | None  # (B, L, g, g): on each token, summing to 1 over L; None without such layers


@dataclass(frozen=True)
class Word:
    """A word of a prompt, and its tokens' places."""

    text: str
    tokens: list[int]


def cross_attention(unet: torch.nn.Module) -> list[Attention]:
    """The layers by which a U-Net reads its prompt, those that add the image's own keys to the text's left out."""
    layers = [module for module in unet.modules() if isinstance(module, Attention)]
    return [layer for layer in layers if layer.is_cross_attention and layer.added_kv_proj_dim is None]


@torch.no_grad()
def probabilities(layer: Attention, hidden: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """How much each place attends to each token, (B, N, L), mean over heads, of hidden (B, N, D), states (B, L, E).

    softmax(Q Kᵀ / √d): Vaswani et al. 2017, eq. 1, as the stock AttnProcessor computes it.
    """
    if layer.norm_cross:
        states = layer.norm_encoder_hidden_states(states)
    query, key = (layer.head_to_batch_dim(part) for part in (layer.to_q(hidden), layer.to_k(states)))
    scores = layer.get_attention_scores(query, key)  # (B · heads, N, L)
    return scores.unflatten(0, (len(hidden), layer.heads)).mean(1)


@contextlib.contextmanager
def listening(layers: Sequence[Attention], rows: int) -> Generator[list[torch.Tensor]]:
    """Within it, the probabilities (rows, N, L) of each layer, for the last `rows` of what this thread sends through.

    Drawings in other threads go by unheard.
    """
    heard, here = [], threading.get_ident()

    def hear(layer, arguments, named=None):  # without `named` only between another thread's adding and taking off
        if threading.get_ident() == here and named is not None:
            heard.append(probabilities(layer, arguments[0][-rows:], named["encoder_hidden_states"][-rows:]))

    hooks = [layer.register_forward_pre_hook(hear, with_kwargs=True) for layer in layers]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def joined(layers: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The mean of the layers' probabilities (B, N, L) on one grid, (B, L, g, g); g is the finest layer's, up to GRID.

    Pictures are square, and so is each layer's grid. None without layers.
    """
    if not layers:
        return None
    maps = [layer.transpose(1, 2).unflatten(2, (round(layer.shape[1] ** 0.5), -1)) for layer in layers]
    g = min(GRID, max(one.shape[-1] for one in maps))
    sized = [F.interpolate(one, (g, g), mode="area" if one.shape[-1] > g else "bilinear") for one in maps]
    return torch.stack(sized).mean(0)


def words(model: "TextToImage", prompt: str) -> list[Word]:
    """The words of a prompt that the text tower reads, each with all its tokens; none of an empty one.

    Around them stand START and END, whose tokens are attended to as well: all tokens are in one of these.
    """
    text = normalise_prompt(prompt)
    places = [match.span() for match in WORD.finditer(text)]
    found, (first, spans, kept) = [Word(text[slice(*place)], []) for place in places], model.tokens(text)
    for token, (low, high) in enumerate(spans[:kept], first):
        overlaps = [min(high, place[1]) - max(low, place[0]) for place in places]
        if max(overlaps, default=0) > 0:
            found[overlaps.index(max(overlaps))].tokens.append(token)
    taken = {token for word in found for token in word.tokens}
    if not taken:
        return []
    rest = [token for token in range(model.max_length) if token not in taken]
    start, end = Word(START, [t for t in rest if t < first]), Word(END, [t for t in rest if t >= first])
    return [word for word in (start, *found, end) if word.tokens]
