"""A hierarchical VAE: one vector of latents for what a picture is, a small map of them below for how it looks.

No library has one, so a model folder is what `huggingface_hub.PyTorchModelHubMixin` writes: config.json, which holds
the arguments of `LadderVAE`, and model.safetensors.

    p(x, z₁, z₂ | y) = p(z₂ | y) p(z₁ | z₂) p(x | z₁, z₂)        drawn from the top down
    q(z₁, z₂ | x) = q(z₂ | x) q(z₁ | x, z₂)                      read from the bottom up, then down again

Sønderby et al. 2016, "Ladder variational autoencoders": the way up is deterministic, the way down is one network for
prior and posterior, and q(z₁ | x, z₂) is the product of what either way says. Here the decoder sees the features that
z₂ came to beside z₁ (as in Kingma et al. 2016), and p(z₂ | y) is a Gaussian of the class: it is learned with all else
by the bound, so that what draws a class is what the bound is of, and no Gaussian has to be fitted afterwards.

Letters: B pictures, R pixels a side, K labels, C channels; Z numbers of z₂, L channels of z₁, which has S × S cells.
Pictures are float in [-1, 1] inside and PIL at the edges.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from PIL import Image
from torch import nn

from hub_models import drawing, mixin, store
from hub_models.device import default_device
from hub_models.latents import between
from hub_models.pictures import frame, from_uint8, to_uint8
from hub_models.ways import row_of

STEM = "ladder"
GROUPS = 8  # of the normalisations: channels are multiples of it
MAX_LEVELS = 8  # of channels
LOGVAR = (-10.0, 10.0)  # the range of every log-variance


class Gaussian(NamedTuple):
    """A diagonal one."""

    mean: torch.Tensor
    logvar: torch.Tensor

    def at(self, noise: torch.Tensor) -> torch.Tensor:
        """The draw that standard normal noise of the same shape stands for (Kingma & Welling 2014, eq. 4)."""
        return self.mean + (0.5 * self.logvar).exp() * noise

    def noise_of(self, z: torch.Tensor) -> torch.Tensor:
        """The noise whose draw is z: the other way of `at`."""
        return (z - self.mean) * (-0.5 * self.logvar).exp()


def gaussian_of(values: torch.Tensor) -> Gaussian:
    """The Gaussian whose mean and log-variance, held within LOGVAR, lie behind each other in dimension 1."""
    mean, logvar = values.float().chunk(2, 1)
    return Gaussian(mean, logvar.clamp(*LOGVAR))


def merged(seen: Gaussian, expected: Gaussian) -> Gaussian:
    """The product of two Gaussians, normalised: precisions add up, means are weighted by them.

    Sønderby et al. 2016, eq. 17-18; `seen` is what came up from the picture, `expected` the prior.
    """
    share = (expected.logvar - seen.logvar).sigmoid()  # of the precision, what was seen has
    return Gaussian(
        torch.lerp(expected.mean, seen.mean, share), -torch.logaddexp(-seen.logvar, -expected.logvar)
    )  # fmt: skip


def divergence(q: Gaussian, p: Gaussian) -> torch.Tensor:
    """KL(q ‖ p) of each picture in nats, (B,)."""
    terms = p.logvar - q.logvar + (q.logvar - p.logvar).exp() + (q.mean - p.mean).square() * (-p.logvar).exp() - 1
    return 0.5 * terms.flatten(1).sum(1)


@dataclass(frozen=True)
class Passed:
    """What one way through the network gave."""

    pixels: torch.Tensor  # (B, 3, R, R), not yet clipped: the mean of p(x | z₁, z₂)
    top: Gaussian  # q(z₂ | x), (B, Z)
    lower: Gaussian  # q(z₁ | x, z₂), (B, L, S, S)
    lower_prior: Gaussian  # p(z₁ | z₂)


class Residual(nn.Module):
    """(B, C, r, r) → the same: He et al. 2016, normalised and activated before each convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, channels) for _ in range(2))
        first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        nn.init.zeros_(second.weight)
        self.convs = nn.ModuleList([first, second])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(F.silu(norm(h)))
        return x + h


class LadderVAE(nn.Module, PyTorchModelHubMixin):
    """The network.

    channels: at R px, R/2 px, …, of which z₂ is read from the last and z₁ from the one before; multiples of 8.
    observation_std: the deviation of pixels around what is decoded, None where nobody has measured it.
    Raises ValueError for what can't be built.
    """

    def __init__(
        self, resolution_px: int, channels: list[int], top_dim: int, lower_channels: int, label_names: list[str],
        observation_std: float | None = None,
    ):  # fmt: skip
        super().__init__()
        check(resolution_px, channels, label_names, observation_std)
        self.resolution_px, self.label_names, self.observation_std = resolution_px, label_names, observation_std
        smallest = resolution_px >> len(channels) - 1
        self.smallest = (channels[-1], smallest, smallest)
        self.top_shape, self.lower_shape = (top_dim,), (lower_channels, 2 * smallest, 2 * smallest)
        self.prior = nn.Embedding(len(label_names), 2 * top_dim)
        nn.init.normal_(self.prior.weight, std=0.01)  # near N(0, I)
        # The way up
        self.first = nn.Conv2d(3, channels[0], 3, padding=1)
        pairs = list(zip(channels, channels[1:], strict=False))
        self.rising = nn.ModuleList(Residual(wide) for wide in channels)
        self.halving = nn.ModuleList(nn.Conv2d(*pair, 3, 2, 1) for pair in pairs)
        flat = channels[-1] * smallest**2
        self.read_top, self.read_lower = nn.Linear(flat, 2 * top_dim), _head(channels[-2], 2 * lower_channels)
        # The way down
        self.write_top, self.write_lower = nn.Linear(top_dim, flat), nn.Conv2d(lower_channels, channels[-2], 1)
        self.expect_lower = _head(channels[-2], 2 * lower_channels)
        self.doubling = nn.ModuleList(nn.Conv2d(after, before, 3, padding=1) for before, after in pairs)
        self.falling = nn.ModuleList(Residual(wide) for wide in channels)
        self.expected = Residual(channels[-2])
        self.last = _head(channels[0], 3)

    def class_prior(self, label: torch.Tensor) -> Gaussian:
        """p(z₂ | y) of labels (B,): (B, Z)."""
        return gaussian_of(self.prior(label))

    def encode(self, x: torch.Tensor) -> tuple[Gaussian, Gaussian]:
        """What comes up from x (B, 3, R, R): q(z₂ | x), (B, Z), and what is seen of z₁, (B, L, S, S)."""
        h, lower = self.first(x), None
        for level, block in enumerate(self.rising):
            h = block(h if level == 0 else self.halving[level - 1](h))  # (B, C, r, r)
            if level == len(self.rising) - 2:
                lower = self.read_lower(h)  # (B, 2 L, S, S)
        assert lower is not None
        return gaussian_of(self.read_top(F.silu(h).flatten(1))), gaussian_of(lower)

    def expect(self, z_top: torch.Tensor) -> tuple[torch.Tensor, Gaussian]:
        """On the way down from z₂ (B, Z): the features (B, C, S, S) that it came to, and p(z₁ | z₂)."""
        h = self.write_top(z_top).unflatten(1, self.smallest)
        h = self.expected(self.doubling[-1](twice_as_large(self.falling[-1](h))))  # (B, C, S, S)
        return h, gaussian_of(self.expect_lower(h))

    def decode(self, features: torch.Tensor, z_lower: torch.Tensor) -> torch.Tensor:
        """The mean of p(x | z₁, z₂), (B, 3, R, R), of what `expect` gave and z₁ (B, L, S, S)."""
        h = self.falling[-2](features + self.write_lower(z_lower))
        for level in range(len(self.falling) - 3, -1, -1):
            h = self.falling[level](self.doubling[level](twice_as_large(h)))
        return self.last(h)

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> Passed:
        """x (B, 3, R, R) up and down again; noise (B, Z + L S S) draws z₂ and then z₁."""
        top, seen = self.encode(x)
        first, second = self.split(noise)
        features, prior = self.expect(top.at(first))
        lower = merged(seen, prior)
        return Passed(self.decode(features, lower.at(second)), top, lower, prior)

    @property
    def noise_dim(self) -> int:
        """Z + L S S."""
        return self.top_shape[0] + int(np.prod(self.lower_shape))

    def split(self, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """noise (B, Z + L S S) as that of z₂ (B, Z) and that of z₁ (B, L, S, S)."""
        top, lower = noise.split([self.top_shape[0], noise.shape[1] - self.top_shape[0]], 1)
        return top, lower.unflatten(1, self.lower_shape)


def check(resolution_px: int, channels: list[int], label_names: list[str], observation_std: float | None) -> None:
    """Raises ValueError for what no LadderVAE can be built of."""
    if not isinstance(channels, list) or not 2 <= len(channels) <= MAX_LEVELS:
        raise ValueError(f"channels is not a list of 2 to {MAX_LEVELS} numbers, one a halving and one more")
    if not all(type(wide) is int and wide > 0 and wide % GROUPS == 0 for wide in channels):
        raise ValueError(f"channels {str(channels)[:60]} are not all multiples of {GROUPS}")
    step = 2 ** (len(channels) - 1)
    if type(resolution_px) is not int or resolution_px < step or resolution_px % step:
        raise ValueError(f"resolution_px {str(resolution_px)[:40]} is no multiple of {step}: channels halve it")
    if not isinstance(label_names, list) or not all(isinstance(name, str) for name in label_names) or not label_names:
        raise ValueError("label_names is not a list of text")
    if observation_std is not None and (not drawing.is_number(observation_std) or observation_std <= 0):
        raise ValueError(f"observation_std {str(observation_std)[:40]} is no number above 0")


def _head(wide_in: int, wide: int) -> nn.Sequential:
    return nn.Sequential(nn.GroupNorm(GROUPS, wide_in), nn.SiLU(), nn.Conv2d(wide_in, wide, 3, padding=1))


def twice_as_large(x: torch.Tensor) -> torch.Tensor:
    """x (B, C, r, r) → (B, C, 2 r, 2 r), each number four times."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


@dataclass(frozen=True)
class Levels:
    """A picture by its levels of latents."""

    both: torch.Tensor  # (3, R, R) in [-1, 1]: of the means of z₂ and z₁
    top_alone: torch.Tensor  # (S, 3, R, R): the same z₂, and z₁ drawn anew from p(z₁ | z₂), one for each seed


class Ladder:
    """A loaded model. Made by `load`, or around a network that is being trained."""

    def __init__(self, model: LadderVAE, *, name: str = "", weights_sha256: str = ""):
        self.model, self.name, self.weights_sha256 = model, name, weights_sha256

    @property
    def device(self) -> torch.device:
        return self.model.prior.weight.device

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def resolution_px(self) -> int:
        return self.model.resolution_px

    @property
    def label_names(self) -> list[str]:
        return self.model.label_names

    def preprocess(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """The pictures as the network sees them, (B, 3, R, R) in [-1, 1]: whole, in a white square."""
        pixels = np.stack([np.asarray(frame(picture, self.resolution_px)) for picture in pictures])  # (B, R, R, 3)
        return from_uint8(pixels).to(self.device)

    def reconstruct(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """What comes back of pictures by way of the means of their latents, (B, 3, R, R) in [-1, 1]."""
        return self.reconstruct_tensor(self.preprocess(pictures))

    @torch.no_grad()
    def reconstruct_tensor(self, x: torch.Tensor, *, top_alone: bool = False) -> torch.Tensor:
        """As `reconstruct`, of x (B, 3, R, R) in [-1, 1]; top_alone: z₁ is the mean of p(z₁ | z₂), unread."""
        if top_alone:
            return self._drawn(self.model.encode(x)[0].mean, x.new_zeros(len(x), *self.model.lower_shape))
        return self.model(x, x.new_zeros(len(x), self.model.noise_dim)).pixels.clamp(-1, 1)

    @torch.no_grad()
    def sample(self, labels: Sequence[int | str], seeds: Sequence[int]) -> torch.Tensor:
        """One picture for each label (number or name) and seed (0 … 2**63 - 1), (B, 3, R, R) in [-1, 1].

        z₂ is drawn from p(z₂ | y), z₁ from p(z₁ | z₂). A picture is of its own seed and label alone. Raises ValueError
        for a label or seed that there is not, and for another number of seeds than labels.
        """
        if len(labels) != len(seeds) or not len(labels):
            raise ValueError(f"{len(labels)} labels for {len(seeds)} seeds: give one label and one seed a picture")
        top, lower = self._noise(seeds)
        rows = torch.tensor([row_of(label, self.label_names, None) for label in labels], device=self.device)
        return self._drawn(self.model.class_prior(rows).at(top), lower)

    @torch.no_grad()
    def walk(self, first: Image.Image, second: Image.Image, steps: int = 9) -> torch.Tensor:
        """The pictures on the way from one to the other, (steps, 3, R, R); 2 … 64 steps.

        z₂ goes along an arc (`latents.between`); of z₁ goes from one to the other how far it lies from what z₂ lets
        expect, in deviations. Both ends are the reconstructions. Raises ValueError for another number of steps.
        """
        steps = drawing.check_whole("steps", steps, 2, 64)
        top, seen = self.model.encode(self.preprocess([first, second]))
        _, prior = self.model.expect(top.mean)
        offsets = prior.noise_of(merged(seen, prior).mean)  # (2, L, S, S)
        share = torch.linspace(0, 1, steps, device=self.device)[:, None, None, None]
        return self._drawn(between(*top.mean, steps), torch.lerp(offsets[:1], offsets[1:], share))

    @torch.no_grad()
    def levels(self, picture: Image.Image, seeds: Sequence[int] = (0, 1, 2)) -> Levels:
        """What the picture becomes with both levels of its latents, and when the lower one is drawn anew.

        What stays the same in `top_alone` is what the top level knows. Raises ValueError for a seed that is none.
        """
        x = self.preprocess([picture])
        top, _ = self.model.encode(x)
        _, lower = self._noise(seeds)
        return Levels(self.reconstruct_tensor(x)[0], self._drawn(top.mean.expand(len(seeds), -1), lower))

    def _noise(self, seeds: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        generators = drawing.generators_of([drawing.check_seed(seed) for seed in seeds])
        return self.model.split(drawing.noise(generators, (self.model.noise_dim,), self.device))

    def _drawn(self, z_top: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The pictures of z₂ (B, Z), with z₁ that noise (B, L, S, S) draws from p(z₁ | z₂)."""
        features, prior = self.model.expect(z_top)
        return self.model.decode(features, prior.at(noise)).clamp(-1, 1)

    def to_pil(self, x: torch.Tensor) -> list[Image.Image]:
        """One RGB picture for each row of x (B, 3, R, R) in [-1, 1]."""
        return [Image.fromarray(pixels) for pixels in to_uint8(x)]


def load(name: str = "emoji-32", device: str | torch.device | None = None) -> Ladder:
    """The model of a bundled variant, a folder or a Hub repo ("org/repo[@revision]"), in fp32 and eval mode.

    Raises store.CheckpointError, which names the file at fault.
    """
    folder = store.resolve(STEM, name)
    with store.opening(folder):
        model = mixin.opened(folder, LadderVAE).to(device or default_device())
    return Ladder(model, name=str(name), weights_sha256=store.weights_sha256(folder))


def save_folder(folder: Path | str, served: Ladder) -> None:
    """Write the folder that `load` reads, weights in the precision they have (`publish.halves` makes them fp16)."""
    served.model.save_pretrained(folder)
