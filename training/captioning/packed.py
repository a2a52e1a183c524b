"""Several captions of a picture in one row, each blind to the others.

Nothing is computed twice for a picture, and little of it for padding. A step of five captions of each of 32 pictures
takes two thirds of the time that 160 rows take.

    row = pack(rows, each=5, pad_id=0)           # rows: the tokens of each caption, start and end included
    model(pixels, row)                           # see training.captioning.Trainee

Letters: B pictures, L places of a row, n of all of them with a token after them, S states, C width of the decoder, V
pieces of the vocabulary.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from hub_models import captioning as contract
from training.data.views import texts_of


class Packed(NamedTuple):
    """Captions of B pictures as one row each."""

    ids: torch.Tensor  # (B, L) int64: each caption but its last token
    positions: torch.Tensor  # (B, L) int64: place in its caption
    mask: torch.Tensor  # (B, 1, L, L) float: 0 where a place sees another, else the least number
    wanted: torch.Tensor  # (B, L) int64: the token that comes next; -100 in the padding
    owner: torch.Tensor  # (B, L) int64: which of the picture's captions; -1 in the padding


def pack(rows: Sequence[Sequence[int]], each: int, pad_id: int) -> Packed:
    """Captions, `each` of a picture after the other, as one row a picture."""
    groups = [rows[at : at + each] for at in range(0, len(rows), each)]
    length = max(sum(len(row) - 1 for row in group) for group in groups)
    ids = torch.full((len(groups), length), pad_id)
    positions, wanted, owner = torch.zeros_like(ids), torch.full_like(ids, -100), torch.full_like(ids, -1)
    for picture, group in enumerate(groups):
        at = 0
        for number, row in enumerate(group):
            place = slice(at, at := at + len(row) - 1)
            ids[picture, place], wanted[picture, place] = torch.tensor(row[:-1]), torch.tensor(row[1:])
            positions[picture, place], owner[picture, place] = torch.arange(len(row) - 1), number
    before = torch.ones(length, length, dtype=torch.bool).tril()
    own = (owner[:, :, None] == owner[:, None]) & before  # padding sees padding
    mask = torch.zeros(own.shape).masked_fill(~own, torch.finfo(torch.float32).min)[:, None]
    return Packed(ids, positions, mask, wanted, owner)


def packed_logits(decoder: Any, states: torch.Tensor, packed: Packed) -> torch.Tensor:
    """Scores of the token after each place that counts, (n, V), row by row, given the states (B, S, C).

    decoder: a BertLMHeadModel.
    """
    out = decoder.bert(
        input_ids=packed.ids,
        position_ids=packed.positions,
        attention_mask=packed.mask,
        encoder_hidden_states=states,
        use_cache=False,
    )
    return decoder.cls(out.last_hidden_state[packed.wanted >= 0])


def packed_loss(model: torch.nn.Module, batch: dict, served: contract.Captioner, smoothing: float):
    """Cross-entropy of each token of the captions of a batch of `ViewedPictures`, with label smoothing.

    Szegedy 2016. And without, and the share of tokens that are the most probable ones."""
    texts = texts_of(batch["caption"])
    rows = [row[kept].tolist() for row, kept in zip(*served.sequences(texts), strict=True)]
    device = batch["pixels"].device
    packed = Packed(*(part.to(device) for part in pack(rows, len(texts) // len(batch["row"]), served.pad_id)))
    logits = model(batch["pixels"], packed)["logits"]  # (n, V)
    with torch.autocast(device.type, enabled=False):
        logits, wanted = logits.float(), packed.wanted[packed.wanted >= 0]
        log_p = logits.log_softmax(-1)
        plain = -log_p.gather(-1, wanted[:, None])[:, 0]
        loss = ((1 - smoothing) * plain - smoothing * log_p.mean(-1)).mean()
        right = logits.detach().argmax(-1) == wanted
    return loss, {"cross_entropy": plain.detach().mean(), "token_accuracy": right.float().mean()}
