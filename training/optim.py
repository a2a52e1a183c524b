"""What is optimised, and how: players, parameter groups, AdamW or Muon, the schedule, the average of the weights."""

import contextlib
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel

from training import checkpoint
from training.checkpoint import Checkpoint
from training.config import TrainConfig
from training.muon import Muon, muon_groups


@dataclass(frozen=True)
class Player:
    """A module that is optimised for a loss of its own; most scripts have one, a GAN has two.

    loss(module, batch) -> (scalar, {name: number}); called with the global generators of random, numpy and torch
    seeded from (seed, step, process, player), so a dropout is resumed exactly too. What other modules it goes through
    get no gradients of it.
    """

    module: torch.nn.Module
    loss: Callable[[torch.nn.Module, Any], tuple[torch.Tensor, dict[str, Any]]]
    groups: list[dict] | None = None  # AdamW's or Muon's, with "lr_scale" where a layer learns slower; None: all of it
    cfg: TrainConfig | None = None  # optimiser, schedule, clipping and ema_decay where they aren't those of the run
    name: str = ""  # what the log and the checkpoint call it; the first needs none and its numbers and files bear none


def learning_rate_factor(step: int, cfg: TrainConfig) -> float:
    """Factor in [0, 1] on the learning rate of 0-based optimiser step `step`: linear warm-up, then constant or cosine.

    Counted in optimiser steps, whatever the number of processes (Loshchilov & Hutter 2017 for the cosine).
    """
    if step < cfg.lr_warmup_steps:
        return (step + 1) / cfg.lr_warmup_steps
    if cfg.lr_scheduler == "constant":
        return 1.0
    done = (step - cfg.lr_warmup_steps) / max(1, cfg.max_train_steps - cfg.lr_warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """AdamW's parameter groups: matrices and kernels decay; biases, gains and other vectors don't."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def parameter_groups(model: torch.nn.Module, cfg: TrainConfig) -> list[dict]:
    """The groups that --optimizer wants, each with its weight decay."""
    by = muon_groups if cfg.optimizer == "muon" else decay_groups
    return by(model, cfg.adam_weight_decay)


def slower(model: torch.nn.Module, part: torch.nn.Module, cfg: TrainConfig, **settings) -> list[dict]:
    """The groups of a model, those of a part of it with settings of their own: lr_scale, weight_decay."""
    own, groups = parameter_groups(part, cfg), parameter_groups(model, cfg)
    taken = {id(p) for group in own for p in group["params"]}
    groups = [group | {"params": [p for p in group["params"] if id(p) not in taken]} for group in groups]
    return [group for group in [*groups, *(group | settings for group in own)] if group["params"]]


def create_optimizer(groups: list[dict], cfg: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or Muon, as --optimizer says; Muon multiplies in bf16 where the run does."""
    for group in groups:
        group.setdefault("lr_scale", 1.0)
    settings: dict = {"lr": cfg.learning_rate, "betas": (cfg.adam_beta1, cfg.adam_beta2)}
    if cfg.optimizer == "muon":
        return Muon(groups, dtype=torch.float32 if cfg.mixed_precision == "no" else torch.bfloat16, **settings)
    return torch.optim.AdamW(groups, **settings)


class Learner:
    """A player in a run: its module as accelerate wraps it (`model`) and `bare`, its optimiser, its average."""

    def __init__(self, player: Player, number: int, cfg: TrainConfig, accelerator: Accelerator):
        self.name, self.number, self.loss, self.cfg = player.name, number, player.loss, player.cfg or cfg
        groups = player.groups or parameter_groups(player.module, self.cfg)
        optimizer = create_optimizer(groups, self.cfg)
        self.model, self.optimizer = accelerator.prepare(player.module, optimizer)
        self.bare = accelerator.unwrap_model(self.model)
        self.ema = EMAModel(self.bare.parameters(), decay=self.cfg.ema_decay)
        self.ema.to(accelerator.device)

    def numbered(self, numbers: dict[str, Any]) -> dict[str, float]:
        """Its numbers as the log names them."""
        return {f"{self.name}/{key}" if self.number else key: float(value) for key, value in numbers.items()}

    def rate(self, step: int) -> float:
        """The learning rate of 0-based optimiser step `step`."""
        return self.cfg.learning_rate * learning_rate_factor(step, self.cfg)

    def set_rate(self, step: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step) * group["lr_scale"]

    def update(self) -> None:
        """Apply the gradients, and let the average follow."""
        self.optimizer.step()
        self.ema.step(self.bare.parameters())

    def keep_average(self) -> None:
        """Put the averaged weights in place of its own, for good."""
        self.ema.copy_to(self.bare.parameters())
        self.bare.eval()

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """What a checkpoint holds of it, by file."""
        return {
            self._file("model"): self._own_state(),
            self._file("ema"): {str(number): shadow for number, shadow in enumerate(self.ema.shadow_params)},
            self._file("optimizer"): checkpoint.optimizer_tensors(self.optimizer),
        }

    def load(self, found: Checkpoint) -> None:
        """Be what `tensors` gave to a checkpoint. Raises RunError where it has nothing of this player."""
        saved = found.tensors(self._file("model"))
        self.bare.load_state_dict(saved | {name: saved[first] for name, first in self._twins().items()})
        averaged = found.tensors(self._file("ema"))
        for number, shadow in enumerate(self.ema.shadow_params):
            shadow.data.copy_(averaged[str(number)])
        # Checkpoints of before there could be two players knew the skipped steps alone.
        before = [found.step - found.state["skipped"]]
        self.ema.optimization_step = found.state.get("averaged_steps", before)[self.number]
        checkpoint.load_optimizer_tensors(self.optimizer, found.tensors(self._file("optimizer")))

    def _own_state(self) -> dict[str, torch.Tensor]:
        """Its module's weights and buffers, each once."""
        twins = self._twins()
        return {name: value.detach() for name, value in self._state().items() if name not in twins}

    def _twins(self) -> dict[str, str]:
        """{name of what its module has under another name, too: the first of its names}"""
        first: dict[int, str] = {}
        names = {name: first.setdefault(id(value), name) for name, value in self._state().items()}
        return {name: of for name, of in names.items() if name != of}

    def _state(self) -> dict[str, torch.Tensor]:
        return self.bare.state_dict(keep_vars=True)

    def _file(self, what: str) -> str:
        return f"{what}-{self.name}" if self.number else what


def team_of(players: Sequence[Player], cfg: TrainConfig, accelerator: Accelerator) -> list[Learner]:
    """The players of a run, in the order in which they play. Raises ValueError where one can't be told from another."""
    names = [player.name for player in players]
    if not players or "" in names[1:] or len(set(names)) < len(names):
        raise ValueError(f"the players are called {names}: all but the first need a name, and each one of its own")
    return [Learner(player, number, cfg, accelerator) for number, player in enumerate(players)]


def rates_of(team: Sequence[Learner], step: int) -> dict[str, float]:
    """The learning rates of 0-based optimiser step `step`, as the log names them."""
    rates = [learner.numbered({"lr": learner.rate(step)}) for learner in team]
    return {name: rate for of_one in rates for name, rate in of_one.items()}


@contextlib.contextmanager
def alone(learner: Learner, team: Sequence[Learner]) -> Generator[None]:
    """For the time of the block only the weights of this learner get gradients."""
    own = {id(p) for p in learner.bare.parameters()}
    others = [p for other in team for p in other.bare.parameters() if p.requires_grad and id(p) not in own]
    for p in others:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in others:
            p.requires_grad_(True)


@contextlib.contextmanager
def ema_weights(team: Sequence[Learner]) -> Generator[torch.nn.Module]:
    """The first of the team in eval mode; all of them with averaged weights in place of their own, for the block."""
    training = [learner.bare.training for learner in team]
    for learner in team:
        learner.ema.store(learner.bare.parameters())
        learner.ema.copy_to(learner.bare.parameters())
        learner.bare.eval()
    try:
        with torch.no_grad():
            yield team[0].bare
    finally:
        for learner, was in zip(team, training, strict=True):
            learner.ema.restore(learner.bare.parameters())
            learner.bare.train(was)
