"""Samples of several kinds in fixed shares."""

import hashlib
import json

import torch

from training.order import Samples


class Mixture:
    """Training samples of which fixed shares come from other pictures than the order of epochs names.

    The first draw of a sample decides between them. others: [(share, samples)], the rest are `usual`; all
    are `training.order.Samples`.
    """

    def __init__(self, usual: Samples, others: list[tuple[float, Samples]]):
        self.usual, self.others = usual, others
        parts = [usual.data_hash, *(part.data_hash for _, part in others)]
        self.data_hash = hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.usual)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        at = float(torch.rand((), generator=draw))
        for share, part in self.others:
            if at < share:
                return part.sample(int(torch.randint(len(part), (), generator=draw)), draw)
            at -= share
        return self.usual.sample(index, draw)
