"""Pictures where an energy is low: an energy-based model with one output per class, sampled by Langevin dynamics.

The network's output f(x)[y] is minus the energy of picture and class together, E(x, y) = -f(x)[y]; the energy of a
picture of any class is E(x) = -log Σ_y exp f(x)[y], and softmax f(x) is a classifier (Grathwohl et al. 2020, "Your
classifier is secretly an energy based model", eq. 4-7). No library has a class for it: the folder is what
`huggingface_hub.PyTorchModelHubMixin` writes, plus one file for what has no place in its config:

    config.json  model.safetensors  preprocessor_config.json {"label_names", "ground", "step_size", "noise_std",
                                                              "steps", "energy_quantiles"}

Letters: B pictures, R pixels a side, K labels, C channels. Pictures are float in [-1, 1] inside and PIL at the edges.
Energies have no unit and no zero: those of one model compare with each other alone.
"""

import json
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from PIL import Image
from torch.nn import functional as F

from hub_models import drawing, mixin, store
from hub_models.device import default_device
from hub_models.documents import read_object
from hub_models.pictures import frame, from_uint8, is_ground, to_uint8
from hub_models.ways import row_of

STEM = "energy"
PREPROCESSOR = "preprocessor_config.json"
QUANTILES = 101  # of the energies of training pictures that are kept: each hundredth
MAX_STEPS = 2000


class Residual(torch.nn.Module):
    """x + two smooth convolutions of it, (B, C, H, W). No statistics of the batch: energies are of each picture."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = torch.nn.Conv2d(channels, channels, 3, padding=1)
        self.second = torch.nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class EnergyNetwork(torch.nn.Module, PyTorchModelHubMixin):
    """Convolutions from pictures (B, 3, R, R) to f(x), (B, K) in float32: high where picture and class are likely.

    Smooth (SiLU) so that its gradient by the picture is, too, and each level halves the side: `block_out_channels`
    of each, the first at full side without a residual block. Du & Mordatch 2019, appendix A.8, in small.
    """

    def __init__(
        self,
        num_labels: int = 12,
        sample_size: int = 32,
        block_out_channels: Sequence[int] = (32, 64, 128, 192),
        layers_per_block: int = 1,
    ):
        super().__init__()
        self.num_labels, self.sample_size = num_labels, sample_size
        self.block_out_channels, self.layers_per_block = list(block_out_channels), layers_per_block
        first, *others = block_out_channels
        self.stem = torch.nn.Conv2d(3, first, 3, padding=1)
        self.levels = torch.nn.ModuleList()
        for before, channels in zip(block_out_channels, others, strict=False):
            halved = torch.nn.Conv2d(before, channels, 4, stride=2, padding=1)
            blocks = [Residual(channels) for _ in range(layers_per_block)]
            self.levels.append(torch.nn.Sequential(torch.nn.SiLU(), halved, *blocks))
        self.head = torch.nn.Linear(block_out_channels[-1], num_labels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.stem(x)  # (B, C, R, R)
        for level in self.levels:
            h = level(h)
        h = F.silu(h).float().mean((2, 3))  # (B, C)
        with torch.autocast(x.device.type, enabled=False):  # an energy in bf16 has two digits
            return self.head(h)  # (B, K)


@dataclass(frozen=True)
class State:
    """Where the chains are after a step of Langevin dynamics."""

    index: int  # 0 … total - 1
    total: int
    x: torch.Tensor  # (B, 3, R, R), within [-1, 1]
    energy: torch.Tensor  # (B,): E(x, y) where the step began


@dataclass(frozen=True)
class Anomaly:
    """How unusual pictures are to the model, beside the pictures that it was trained on."""

    energy: np.ndarray  # (B,): E(x)
    share_below: np.ndarray  # (B,): the share of training pictures of lower energy, 0 … 1
    deviations: np.ndarray  # (B,): how far above their median, in half the width of the middle 68 % of them


def picture_energy(outputs: torch.Tensor) -> torch.Tensor:
    """E(x) = -log Σ_y exp f(x)[y], (B,), of a network's outputs (B, K). Grathwohl et al. 2020, eq. 6."""
    return -outputs.logsumexp(-1)


def label_energy(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """E(x, y) = -f(x)[y], (B,), of a network's outputs (B, K) and labels (B,)."""
    return -outputs.gather(1, labels[:, None])[:, 0]


def langevin(
    energy: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    noise: Callable[[], torch.Tensor],
    *,
    steps: int,
    step_size: float,
    noise_std: float,
) -> Generator[tuple[torch.Tensor, torch.Tensor]]:
    """(x, energy where the step began) after each step x ← x - step_size · ∇E(x) + noise_std · z, kept in [-1, 1].

    energy: (B, …) → (B,), differentiable; noise(): z of x's shape, standard normal. With noise_std = √(2 step_size)
    the chain's distribution tends to exp(-E) as steps become small (Welling & Teh 2011); less noise, as in Du &
    Mordatch 2019, eq. 1, is a lower temperature. Works inside torch.no_grad().
    """
    for _ in range(steps):
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            now = energy(x)  # (B,)
            [slope] = torch.autograd.grad(now.sum(), x)  # of x alone: the weights get no gradient
        x = (x.detach() - step_size * slope + noise_std * noise()).clamp(-1, 1)
        yield x, now.detach()


class EnergyModel:
    """A loaded model. Made by `load`, or from a network that is being trained.

    step_size, noise_std, steps: how it samples by default. energy_quantiles: those of E(x) over training pictures,
    ascending and evenly spaced, or None where nobody measured them.
    """

    def __init__(
        self,
        model: EnergyNetwork,
        *,
        label_names: Sequence[str],
        ground: Sequence[int] = (255, 255, 255),
        step_size: float = 1.0,
        noise_std: float = 0.01,
        steps: int = 200,
        energy_quantiles: Sequence[float] | None = None,
        name: str = "",
        weights_sha256: str = "",
    ):
        self.model = model
        self.label_names = list(label_names)
        self.ground = tuple(ground)
        self.step_size, self.noise_std, self.steps = step_size, noise_std, steps
        self.energy_quantiles = None if energy_quantiles is None else [float(value) for value in energy_quantiles]
        self.name = name
        self.weights_sha256 = weights_sha256

    @property
    def device(self) -> torch.device:
        return self.model.head.weight.device

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def resolution_px(self) -> int:
        return self.model.sample_size

    def preprocess(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """The pictures as the network sees them, (B, 3, R, R) in [-1, 1]: whole, in a square of the ground colour."""
        pixels = np.stack([np.asarray(frame(picture, self.resolution_px, self.ground)) for picture in pictures])
        return from_uint8(pixels).to(self.device)

    def rows(self, labels: Sequence[int | str]) -> torch.Tensor:
        """The labels' numbers, int64 (B,). Raises ValueError that lists the labels."""
        return torch.tensor([row_of(label, self.label_names, None) for label in labels], device=self.device)

    @torch.no_grad()
    def outputs(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """f(x), (B, K): the classifier's logits, and minus the energies with each label."""
        return self.model(self.preprocess(pictures))

    def energy(self, pictures: Sequence[Image.Image], labels: Sequence[int | str] | None = None) -> torch.Tensor:
        """E(x), or with a label for each picture E(x, y), (B,): the lower, the more like what it was trained on.

        Raises ValueError for a label that there is not, or another number of labels than pictures.
        """
        if labels is not None and len(labels) != len(pictures):
            raise ValueError(f"{len(labels)} labels for {len(pictures)} pictures: give one label a picture, or none")
        rows = None if labels is None else self.rows(labels)
        outputs = self.outputs(pictures)
        return picture_energy(outputs) if rows is None else label_energy(outputs, rows)

    def anomaly(self, pictures: Sequence[Image.Image]) -> Anomaly:
        """E(x) of each picture against the energies of training pictures.

        Raises ValueError where these were not measured.
        """
        if self.energy_quantiles is None:
            raise ValueError(f"{self.name or 'this model'} has no energy_quantiles to compare with: export it again")
        energy, known = self.energy(pictures).double().cpu().numpy(), np.array(self.energy_quantiles)
        below = np.interp(energy, known, np.linspace(0, 1, len(known)))
        low, middle, high = np.quantile(known, [0.16, 0.5, 0.84])
        return Anomaly(energy, below, (energy - middle) / max((high - low) / 2, 1e-12))

    def start(self, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Where chains begin, (B, 3, R, R): uniform noise in [-1, 1], chain k's from generator k."""
        side = self.resolution_px
        return torch.stack([2 * torch.rand(3, side, side, generator=one) - 1 for one in generators]).to(self.device)

    def sample(
        self,
        labels: Sequence[int | str],
        seeds: Sequence[int],
        *,
        steps: int | None = None,
        step_size: float | None = None,
        noise_std: float | None = None,
        starts: Sequence[Image.Image] | None = None,
    ) -> Generator[State]:
        """One `State` for every step of the chains; the last one's x is the pictures. Close it to stop at once.

        labels: one for each picture, its number or name. seeds: one for each, 0 … 2**63 - 1. A picture depends on its
            own seed and label alone: in a batch and by itself it comes out the same to within what floating point
            sums differ by.
        steps: 1 … 2000; step_size above 0, noise_std from 0: see `langevin`; None means the model's own.
        starts: pictures to begin at, in the place of noise.
        Raises ValueError, here and not at the first step, for anything out of these ranges.
        """
        if len(labels) != len(seeds) or not len(labels):
            raise ValueError(f"{len(labels)} labels for {len(seeds)} seeds: give one label and one seed a picture")
        if starts is not None and len(starts) != len(seeds):
            raise ValueError(f"{len(starts)} pictures to begin at for {len(seeds)} seeds: give one a picture, or none")
        generators = drawing.generators_of([drawing.check_seed(seed) for seed in seeds])
        total = drawing.check_whole("steps", self.steps if steps is None else steps, 1, MAX_STEPS)
        size, std = (
            self.step_size if step_size is None else step_size,
            self.noise_std if noise_std is None else noise_std,
        )
        if not drawing.is_number(size) or size <= 0 or not drawing.is_number(std) or std < 0:
            raise ValueError(f"step_size {size!r} must be a number above 0, and noise_std {std!r} one from 0")
        x = self.start(generators) if starts is None else self.preprocess(starts)
        return self._states(x, self.rows(labels), generators, {"steps": total, "step_size": size, "noise_std": std})

    def _states(self, x: torch.Tensor, rows: torch.Tensor, generators: list, how: dict) -> Generator[State]:
        chains = langevin(
            lambda x: label_energy(self.model(x), rows),
            x,
            lambda: drawing.noise(generators, x.shape[1:], x.device),
            **how,
        )
        for index, (x, energy) in enumerate(chains):
            yield State(index, how["steps"], x, energy)

    def to_pil(self, x: torch.Tensor) -> list[Image.Image]:
        """One RGB picture for each row of x (B, 3, R, R) in [-1, 1]."""
        return [Image.fromarray(pixels) for pixels in to_uint8(x)]


def load(name: str = "emoji-32", device: str | torch.device | None = None) -> EnergyModel:
    """The model of a bundled variant, a folder or a Hub repo ("org/repo[@revision]"), in fp32 and eval mode.

    A folder of PyTorchModelHubMixin without preprocessor_config.json loads too, with numbers for label names. Raises
    store.CheckpointError, which names the file at fault.
    """
    folder = store.resolve(STEM, name)
    with store.opening(folder):
        model = _open_network(folder)
        extra = _read_extra(folder / PREPROCESSOR, model.num_labels)
    model.to(device or default_device())
    return EnergyModel(model, name=str(name), weights_sha256=store.weights_sha256(folder), **extra)


def _open_network(folder: Path) -> EnergyNetwork:
    config, path = read_object(folder / "config.json"), folder / "config.json"
    names = ("num_labels", "sample_size", "block_out_channels", "layers_per_block")
    if lacking := [name for name in names if name not in config]:
        raise store.CheckpointError(
            f"{path} has no {lacking[0]}: this needs an energy-based model, such as training/energy.py exports"
        )
    counts = [config["num_labels"], config["sample_size"], config["layers_per_block"]]
    channels = config["block_out_channels"]
    if not isinstance(channels, list) or not all(type(n) is int and n > 0 for n in [*counts[:2], *channels]):
        raise store.CheckpointError(f"{path}: num_labels, sample_size and block_out_channels must be whole numbers")
    if not channels or config["sample_size"] % 2 ** (len(channels) - 1):
        raise store.CheckpointError(f"{path}: sample_size can't be halved once for each of block_out_channels")
    return mixin.opened(folder, EnergyNetwork)


def save_folder(folder: Path | str, served: EnergyModel) -> None:
    """Write the folder that `load` reads, weights in the precision they have (`publish.halves` makes them fp16)."""
    folder = Path(folder)
    served.model.save_pretrained(folder)
    extra = {
        "label_names": served.label_names, "ground": list(served.ground), "step_size": served.step_size,
        "noise_std": served.noise_std, "steps": served.steps, "energy_quantiles": served.energy_quantiles,
    }  # fmt: skip
    text = json.dumps({key: value for key, value in extra.items() if value is not None}, indent=1)
    (folder / PREPROCESSOR).write_text(text + "\n", encoding="utf-8")


def quantiles_of(energies: np.ndarray) -> list[float]:
    """The quantiles of energies (N,) that a folder keeps, ascending: the least, each hundredth, the greatest."""
    return np.round(np.quantile(energies, np.linspace(0, 1, QUANTILES)), 4).tolist()


def _read_extra(path: Path, num_labels: int) -> dict:
    """The arguments of `EnergyModel` that preprocessor_config.json holds, checked. Raises CheckpointError."""
    saved = read_object(path) if path.is_file() else {}
    extra = {"label_names": [str(row) for row in range(num_labels)]} | {
        key: saved[key]
        for key in ("label_names", "ground", "step_size", "noise_std", "steps", "energy_quantiles")
        if key in saved
    }
    if problem := _problem(extra, num_labels):
        raise store.CheckpointError(f"{path}: {problem}; correct it or export again")
    return extra


def _problem(extra: dict, num_labels: int) -> str | None:
    names, known = extra["label_names"], extra.get("energy_quantiles", [0.0, 0.0])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) != num_labels:
        return f"label_names is not a list of {num_labels} texts"
    if not is_ground(extra.get("ground", [255, 255, 255])):
        return f"ground {extra['ground']!r} is not three numbers from 0 to 255"
    for name, least in (("step_size", 0.0), ("noise_std", -math.inf)):
        value = extra.get(name, 1.0)
        if not drawing.is_number(value) or value <= least or value < 0:
            return f"{name} {str(value)[:40]} is not a positive number"
    if not drawing.is_whole(extra.get("steps", 1), 1, MAX_STEPS):
        return f"steps {str(extra['steps'])[:40]} is not a whole number from 1 to {MAX_STEPS}"
    if (
        not isinstance(known, list)
        or len(known) < 2
        or not all(map(drawing.is_number, known))
        or known != sorted(known)
    ):
        return "energy_quantiles are not two or more ascending numbers"
    return None
