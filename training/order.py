"""Which sample stands where, and which draw belongs to it.

Letters: B samples per process and forward pass, A accumulation steps, W processes, G = A·W·B samples per optimiser
step.

Exact resume comes from a stateless design: which sample stands where is a function of (seed, epoch), and every random
draw a function of (seed, step, position in the global batch). Nothing about the data order has to be saved, and one
process or two draw the same numbers.
"""

import hashlib
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from training.checkpoint import RunError
from training.config import TrainConfig, global_batch_size


class Samples(Protocol):
    """What `training.loop.fit` trains on: `len()`, a hash of the content, and sample(index, draw) -> {name: tensor}.

    `draw` is a torch.Generator that is a function of (seed, step, position): all randomness of a sample comes from it.
    """

    data_hash: str

    def __len__(self) -> int: ...

    def sample(self, index: int, draw: torch.Generator) -> dict[str, Any]: ...


def draw_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on all parts: the same on every machine, process and Python version."""
    text = ":".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def sample_order(length: int, seed: int, start: int, count: int) -> np.ndarray:
    """Indices (count,) int64 that stand at places start … start + count - 1 of the endless sequence of epochs.

    Epoch e is a permutation of range(length) drawn from (seed, e); the last samples of an epoch share a batch with the
    first of the next, so none is left out.
    """
    taken = []
    while count > 0:
        epoch, offset = divmod(start, length)
        order = np.random.default_rng(draw_seed("order", seed, epoch)).permutation(length)[offset : offset + count]
        taken.append(order)
        start, count = start + len(order), count - len(order)
    return np.concatenate(taken)


class Schedule:
    """Batches of keys for one process, from the first batch of `start_step` on: A batches of B keys per step."""

    def __init__(self, length: int, cfg: TrainConfig, start_step: int, rank: int, world: int):
        self.length, self.cfg, self.start_step, self.rank, self.world = length, cfg, start_step, rank, world

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        batch, whole = self.cfg.train_batch_size, global_batch_size(self.cfg, self.world)
        for step in range(self.start_step, self.cfg.max_train_steps):
            order = sample_order(self.length, self.cfg.seed, step * whole, whole)
            for part in range(self.cfg.gradient_accumulation_steps):
                first = (part * self.world + self.rank) * batch
                yield [(step, place, int(order[place])) for place in range(first, first + batch)]


class _Draws(Dataset):
    """Map-style view of `Samples` whose keys are (step, position, index)."""

    def __init__(self, samples: Samples, seed: int):
        self.samples, self.seed = samples, seed

    def __getitem__(self, index: tuple[int, int, int]) -> dict[str, Any]:
        step, position, which = index
        draw = torch.Generator().manual_seed(draw_seed("sample", self.seed, step, position))
        return self.samples.sample(which, draw)


@dataclass(frozen=True)
class Order:
    """The batches of one process of a run, and the seeds of its draws. Raises RunError where there are no samples."""

    samples: Samples
    cfg: TrainConfig
    device: torch.device
    rank: int
    world: int  # W

    def __post_init__(self):
        if not len(self.samples):
            raise RunError("the training set is empty: check --dataset_name and its split")

    @property
    def whole(self) -> int:
        """G, the samples of an optimiser step over all processes."""
        return global_batch_size(self.cfg, self.world)

    def of_step(self, step: int) -> list[int]:
        """The indices (G,) of the samples that all processes together take in a step."""
        return sample_order(len(self.samples), self.cfg.seed, step * self.whole, self.whole).tolist()

    def batches(self, start_step: int) -> DataLoader:
        """A batches per step from `start_step` on: the samples collated by torch's default rule, on the CPU."""
        return DataLoader(
            _Draws(self.samples, self.cfg.seed),
            batch_sampler=Schedule(len(self.samples), self.cfg, start_step, self.rank, self.world),
            num_workers=self.cfg.dataloader_num_workers,
            persistent_workers=False,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_one_thread,
            collate_fn=default_collate,
        )

    def first_batch(self) -> Any:
        """The first batch of step 0, made in this process."""
        keys = next(iter(Schedule(len(self.samples), self.cfg, 0, self.rank, self.world)))
        draws = _Draws(self.samples, self.cfg.seed)
        return default_collate([draws[key] for key in keys])

    def on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its tensors where the model is."""
        return {
            key: value.to(self.device, non_blocking=True) if torch.is_tensor(value) else value
            for key, value in batch.items()
        }

    def seed_draws(self, number: int, player: int = 0) -> None:
        """Seed the global generators of random, numpy and torch for forward pass `number` of a player."""
        seed = draw_seed("global", self.cfg.seed, number, self.rank, *([player] if player else []))
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)


def _one_thread(_worker: int) -> None:
    """A sample worker keeps to one core, and leaves the signals to the training process."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
