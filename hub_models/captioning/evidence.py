"""For each word of a caption, where the model looked. `Captioner` has it as a method.

Letters: see `hub_models.captioning`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from hub_models.captioning.parts import (
    attended,
    attention_of,
    attention_shown,
    covered,
    decode,
    grid_of,
    pointed_at,
    relevance,
    token_log_probs,
)

if TYPE_CHECKING:
    from hub_models.captioning.model import Caption, Captioner

COVERED_BATCH = 8  # pictures with something covered, of which somebody waits for each


@dataclass(frozen=True)
class Evidence:
    """Where the model looked when it said a word. Maps lie over `Captioner.seen(image)`, row 0 at its top."""

    word: str
    attention: np.ndarray | None  # float32 (h, w) in [0, 1], largest 1; None where the decoder shows no cross-attention
    drop: float | None  # of the word's log-probability when `covered` has the picture's mean colour; None as before
    covered: np.ndarray | None  # bool (h, w): the patches the word points at


@torch.no_grad()
def evidence_of(
    captioner: "Captioner", image: Image.Image, caption: "Caption", *, on_step: Callable[[], None] | None = None
) -> list[Evidence]:
    """For each word of a caption of the picture, where the model looked, and what it is worth to it.

    attention: cross-attention to the patches, weighted by how much the word's log-probability gains by it
    (`parts.relevance`). That alone is no explanation (Jain & Wallace 2019), so the patches it is highest at are
    covered with the picture's mean colour, and `drop` is what the word's log-probability, after the same words,
    loses by that. A word of probability 1 owes nothing to anything: its map is the attention alone. on_step: called
    after each word, and after each few pictures that are covered; what it raises ends the work.
    """
    if not caption.words:
        return []
    seen = captioner.seen(image)
    states = attended(captioner.model, captioner.encode([seen]))  # (1, S, C)
    ids = torch.tensor([[captioner.start_id, *caption.tokens[:-1]]], device=states.device)
    grid = grid_of(states.shape[1])
    with attention_shown(captioner.model), torch.enable_grad():
        out = decode(captioner.model, states.requires_grad_(), ids, output_attentions=True, use_cache=False)
        log_probs = out.logits[0].float().log_softmax(-1)  # (L, V)
        score_of = [log_probs[range(w.start, w.stop), caption.tokens[w]].sum() for _, w in caption.words]
    if not out.cross_attentions or grid is None:
        return [Evidence(word, None, None, None) for word, _ in caption.words]
    attentions = []
    for score, (_, place) in zip(score_of, caption.words, strict=True):
        of_states = relevance(out.cross_attentions, score)  # (S,)
        if not of_states.any():
            of_states = attention_of(out.cross_attentions, place)
        attention = of_states[-grid[0] * grid[1] :].reshape(grid).cpu().numpy()  # class tokens come first
        attentions.append((attention / max(float(attention.max()), 1e-12)).astype(np.float32))
        if on_step:
            on_step()
    pointed = [pointed_at(a) for a in attentions]
    whole = token_log_probs(captioner, states, [caption.tokens])[0]
    found = []
    for at in range(0, len(pointed), COVERED_BATCH):
        part = [covered(seen, patches) for patches in pointed[at : at + COVERED_BATCH]]
        states = attended(captioner.model, captioner.encode(part))
        rows = token_log_probs(captioner, states, [caption.tokens] * len(part))
        for number, without in enumerate(rows, at):
            word, place = caption.words[number]
            drop = sum(whole[place]) - sum(without[place])
            found.append(Evidence(word, attentions[number], drop, pointed[number]))
        if on_step:
            on_step()
    return found
