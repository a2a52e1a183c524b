"""Captions that are drawn, scored and learnt from: what a captioner is measured by becomes what it is trained for.

Rennie et al. 2017 (self-critical sequence training), with the mean score of a picture's other captions in place of that
of the greedy one (Luo 2020, "A better variant of self-critical sequence training"). The score is CIDEr-D among the
picture's own captions, with document frequencies of the whole training set.

Letters: B pictures, K captions drawn of each, S states, C width of the decoder.
"""

from collections.abc import Sequence

import numpy as np
import torch

from hub_models import captioning as contract
from training.captioning.packed import Packed, pack
from training.data.captions import Captions
from training.metrics import CiderD

END = "endofcaption"  # a word for the end: captions that break off ("a dog in a") would else score higher


class Rewards:
    """CIDEr-D of captions of training pictures, whose end is a word, too."""

    def __init__(self, captions: Captions):
        self._score = CiderD([[finished(text, True) for text in captions.all(i)] for i in range(len(captions))])

    def __call__(self, texts: Sequence[str], ended: Sequence[bool], rows: Sequence[int]) -> np.ndarray:
        """(B · K,) float64 in [0, 10] of captions of pictures number `rows`; ended: whether they came to their end."""
        asked = zip(texts, ended, rows, strict=True)
        return np.array([self._score(finished(text, whole), row) for text, whole, row in asked])


def finished(text: str, ended: bool) -> str:
    """The caption with a word for its end, if it came to one."""
    return f"{text} {END}" if ended else text


def advantages(rewards: torch.Tensor) -> torch.Tensor:
    """By how much each reward (B, K) is above the mean of the picture's other ones. Raises ValueError for K = 1."""
    count = rewards.shape[1]
    if count < 2:
        raise ValueError("one caption of a picture has no others to compare it with: draw at least 2")
    return (rewards - rewards.mean(1, keepdim=True)) * count / (count - 1)


@torch.no_grad()
def drawn(served: contract.Captioner, states: torch.Tensor, most: int, temperature: float = 1.0) -> list[list[int]]:
    """A caption drawn for each row of states (B · K, S, C), from the global generator: its tokens.

    The start included, and the end, if it came to one within `most` tokens.
    """
    ids, past = torch.full((len(states), 1), served.start_id, device=states.device), None
    going = torch.ones(len(states), dtype=torch.bool, device=states.device)
    lengths = torch.ones(len(states), dtype=torch.int64, device=states.device)
    for _ in range(most):
        out = contract.decode(served.model, states, ids[:, -1:], past_key_values=past, use_cache=True)
        past, probability = out.past_key_values, (out.logits[:, -1].float() / temperature).softmax(-1)
        ids = torch.cat([ids, torch.multinomial(probability, 1)], 1)
        lengths += going
        going = going & (ids[:, -1] != served.end_id)
        if not going.any():
            break
    return [row[:length] for row, length in zip(ids.tolist(), lengths.tolist(), strict=True)]


def self_critical_loss(
    model: torch.nn.Module,
    batch: dict,
    served: contract.Captioner,
    rewards: Rewards,
    count: int,
    most: int,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, dict]:
    """- advantage · log p of `count` captions drawn of each picture, mean over their tokens; and the mean reward.

    p is that of the temperature, in drawing and in the loss: of a captioner that was trained with label smoothing,
    captions drawn at 1 are so poor that the short ones win (docs/LOG.md).
    model: a `training.captioning.Trainee`. Nothing drops out, so that what is scored is what was drawn.
    batch: "pixels" as the model takes them, "row" (B,) the pictures' numbers.
    """
    served.model.eval()
    device, said = batch["pixels"].device, []

    def draw(states: torch.Tensor) -> Packed:
        said.extend(drawn(served, states.repeat_interleave(count, 0), most, temperature))
        return Packed(*(part.to(device) for part in pack(said, count, served.pad_id)))

    out = model(batch["pixels"], draw)
    texts = served.tokenizer.batch_decode(said, skip_special_tokens=True)
    rows = batch["row"].repeat_interleave(count).tolist()
    reward = rewards(texts, [row[-1] == served.end_id for row in said], rows)
    reward = torch.from_numpy(reward).float().to(device).view(-1, count)  # (B, K)
    with torch.autocast(device.type, enabled=False):
        packed, counted = out["drawn"], out["drawn"].wanted >= 0
        log_p = (out["logits"].float() / temperature).log_softmax(-1).gather(-1, packed.wanted[counted][:, None])[:, 0]
        gain = advantages(reward).gather(1, packed.owner.clamp(min=0))[counted]  # of the caption that each token is of
        loss = -(gain * log_p).mean()
    told = {"reward": reward.mean(), "spread": reward.std(1).mean(), "tokens": counted.sum() / len(said)}
    return loss, {key: value.detach() for key, value in told.items()}
