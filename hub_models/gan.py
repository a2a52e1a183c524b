"""Pictures in one pass, by class: a generator, and the discriminator it learned against.

No library has these two, so a model folder is what `huggingface_hub.PyTorchModelHubMixin` writes of them:

    config.json  model.safetensors                                the generator; config.json holds its arguments
    discriminator/config.json  discriminator/model.safetensors    the discriminator; may be missing

Letters: B pictures, R pixels a side, K labels, C channels; Z numbers say which picture, N more are its noise inputs,
W is what they come to in front of the first convolution. Pictures are float in [-1, 1] inside and PIL at the edges.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from PIL import Image
from torch import nn

from hub_models import drawing, mixin, store
from hub_models.device import default_device
from hub_models.pictures import frame, from_uint8, to_uint8
from hub_models.ways import row_of

KINDS = ("dcgan", "style")
DISCRIMINATOR = "discriminator"  # its folder in the generator's
SMALLEST = 4  # pixels a side of what the first convolution sees
MAX_LEVELS = 9  # of channels: 4 px to 1024 px
TRUNCATION = 0.7  # ψ by default, as Karras et al. 2019 show their pictures: likelier ones, less varied
CENTRE_DRAWS = 512  # of z, and as many of -z, whose mean is the centre of a label


class Generator(nn.Module, PyTorchModelHubMixin):
    """(B, 3, R, R) of z (B, Z), noise (B, N) and labels (B,); R = 4 · 2^(levels - 1).

    kind "dcgan": Radford et al. 2015, transposed convolutions up to a tanh, the label's embedding beside z as in Mirza
        & Osindero 2014. Each picture is normalised by itself (Wu & He 2018), not with its batch: averaged weights have
        no batch whose statistics would be theirs, and a picture mustn't depend on those drawn with it.
    kind "style": Karras et al. 2019, 2020 (StyleGAN2): a mapping network, modulated convolutions, noise inputs, and
        colours that add up over the levels.
    channels: at 4 px, 8 px, …, R px; multiples of 8. Raises ValueError for what is none of these.
    """

    def __init__(self, kind: str, channels: list[int], z_dim: int, label_names: list[str]):
        super().__init__()
        check_channels(channels)
        if kind not in KINDS:
            raise ValueError(f"kind {str(kind)[:40]!r} is unknown: choose one of {', '.join(KINDS)}")
        if not isinstance(label_names, list) or not all(isinstance(name, str) for name in label_names):
            raise ValueError("label_names is not a list of text")
        self.z_dim, self.label_names = z_dim, label_names
        self.resolution_px = SMALLEST << len(channels) - 1
        self.embedding = nn.Embedding(len(label_names), z_dim)
        self.mapping = mapping_network(2 * z_dim, z_dim) if kind == "style" else nn.Identity()
        self.synthesis = StyleSynthesis(channels, z_dim) if kind == "style" else DCGANSynthesis(channels, 2 * z_dim)

    @property
    def noise_dim(self) -> int:
        """N."""
        return self.synthesis.noise_dim

    def styles(self, z: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """(B, W) of z (B, Z) and labels (B,)."""
        return self.mapping(torch.cat([unit_size(z), unit_size(self.embedding(label))], 1))

    def centre(self, label: torch.Tensor) -> torch.Tensor:
        """The mean of `styles` of each label over z, (B, W): the same in every call."""
        z = torch.randn(CENTRE_DRAWS, self.z_dim, generator=torch.Generator().manual_seed(0))
        z = torch.cat([z, -z]).to(label.device)  # (2 D, Z)
        rows, which = label.unique(return_inverse=True)
        return torch.stack([self.styles(z, row.expand(len(z))).mean(0) for row in rows])[which]

    def forward(
        self, z: torch.Tensor, noise: torch.Tensor, label: torch.Tensor, truncation: float = 1.0
    ) -> torch.Tensor:
        """truncation ψ: styles come so much nearer to the centre of their label (Karras et al. 2019, appendix B)."""
        w = self.styles(z, label)  # (B, W)
        return self.synthesis(w if truncation == 1 else self.centre(label).lerp(w, truncation), noise)


def check_channels(channels: list[int]) -> None:
    """Raises ValueError for what is no list of the channels of 1 to MAX_LEVELS levels."""
    if not isinstance(channels, list) or not 1 <= len(channels) <= MAX_LEVELS:
        raise ValueError(f"channels is not a list of 1 to {MAX_LEVELS} numbers, one a level from {SMALLEST} px on")
    if not all(type(wide) is int and wide > 0 and wide % 8 == 0 for wide in channels):
        raise ValueError(f"channels {str(channels)[:60]} are not all multiples of 8")


def unit_size(x: torch.Tensor) -> torch.Tensor:
    """x (B, D) with a mean square of 1 in each row."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def mapping_network(wide_in: int, wide: int, layers: int = 3) -> nn.Sequential:
    """From what was drawn to a style, (B, wide): Karras et al. 2019, §2, with fewer layers."""
    sizes = [wide_in, *[wide] * layers]
    pairs = zip(sizes, sizes[1:], strict=False)
    return nn.Sequential(*(part for pair in pairs for part in (nn.Linear(*pair), nn.LeakyReLU(0.2))))


class DCGANSynthesis(nn.Module):
    """(B, 3, R, R) of w (B, W); noise (B, 0) isn't read. Radford et al. 2015, figure 1."""

    noise_dim = 0

    def __init__(self, channels: list[int], w_dim: int):
        super().__init__()
        self.first = nn.Linear(w_dim, channels[0] * SMALLEST**2)
        self.norms = nn.ModuleList(nn.GroupNorm(8, wide) for wide in channels)
        pairs = zip(channels, channels[1:], strict=False)
        self.up = nn.ModuleList(nn.ConvTranspose2d(*pair, 4, 2, 1) for pair in pairs)
        self.to_rgb = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, w: torch.Tensor, _noise: torch.Tensor) -> torch.Tensor:
        x = self.first(w).unflatten(1, (-1, SMALLEST, SMALLEST))  # (B, C, 4, 4)
        x = F.relu(self.norms[0](x))
        for up, norm in zip(self.up, self.norms[1:], strict=True):
            x = F.relu(norm(up(x)))  # (B, C', 2 r, 2 r)
        return self.to_rgb(x).tanh()


class StyleSynthesis(nn.Module):
    """(B, 3, R, R) of styles w (B, W) and noise (B, N). Karras et al. 2020, figures 2c and 7b (skips)."""

    def __init__(self, channels: list[int], w_dim: int):
        super().__init__()
        sides = [SMALLEST << level for level in range(len(channels))]
        self.constant = nn.Parameter(torch.randn(1, channels[0], SMALLEST, SMALLEST))
        wide = [(channels[max(level - 1, 0)], each) for level, each in enumerate(channels)]
        self.layers = nn.ModuleList()
        for pair, side in zip(wide, sides, strict=True):
            first = [] if side == SMALLEST else [StyledLayer(*pair, w_dim, side)]
            self.layers.append(nn.ModuleList([*first, StyledLayer(pair[1], pair[1], w_dim, side)]))
        self.to_rgb = nn.ModuleList(ModulatedConv(each, 3, 1, w_dim, demodulate=False) for each in channels)
        self.noise_dim = sum(side**2 if side == SMALLEST else 2 * side**2 for side in sides)

    def forward(self, w: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        x, at = self.constant.expand(len(w), -1, -1, -1), 0
        picture, levels = x.new_zeros(()), cast(Any, self.layers)
        for number, (level, to_rgb) in enumerate(zip(levels, self.to_rgb, strict=True)):
            x = twice_as_large(x) if number else x  # (B, C, r, r)
            for layer in level:
                x = layer(x, w, noise[:, at : at + layer.side**2])
                at += layer.side**2
            picture = (twice_as_large(picture) if number else picture) + to_rgb(x, w)  # (B, 3, r, r)
        return picture


def twice_as_large(x: torch.Tensor) -> torch.Tensor:
    """x (B, C, r, r) → (B, C, 2 r, 2 r), smoothed."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class StyledLayer(nn.Module):
    """A modulated convolution, noise of a learned strength, a bias and a leaky ReLU: (B, C, r, r) → (B, C', r, r)."""

    def __init__(self, wide_in: int, wide: int, w_dim: int, side: int):
        super().__init__()
        self.side, self.conv = side, ModulatedConv(wide_in, wide, 3, w_dim)
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor, w: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        x = self.conv(x, w) + self.strength * noise.view(-1, 1, self.side, self.side)
        return F.leaky_relu(x, 0.2) * 2**0.5


class ModulatedConv(nn.Module):
    """A convolution whose input channels each picture's style scales: Karras et al. 2020, eq. 1 and 3.

    Scaling inputs and outputs equals scaling the weights, and leaves one convolution for the whole batch.
    """

    def __init__(self, wide_in: int, wide: int, side: int, w_dim: int, *, demodulate: bool = True):
        super().__init__()
        self.demodulate = demodulate
        self.style = nn.Linear(w_dim, wide_in)
        nn.init.ones_(self.style.bias)
        self.weight = nn.Parameter(torch.randn(wide, wide_in, side, side) / (wide_in * side**2) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(wide))

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        scale = self.style(w)  # (B, C)
        x = F.conv2d(x * scale[:, :, None, None], self.weight, padding="same")
        if self.demodulate:
            size = scale.square() @ self.weight.square().sum((2, 3)).T  # (B, C')
            x = x * (size + 1e-8).rsqrt()[:, :, None, None]
        return x + self.bias[:, None, None]


class Discriminator(nn.Module, PyTorchModelHubMixin):
    """Logits (B,), high for real, of x (B, 3, R, R) and labels (B,); of a relativistic loss they compare, no more.

    Strided convolutions (Radford et al. 2015), without batch normalisation so that a gradient penalty is of each
    picture alone; the label by projection (Miyato & Koyama 2018). channels: as the generator's.
    """

    def __init__(self, channels: list[int], num_labels: int):
        super().__init__()
        check_channels(channels)
        self.reads = (SMALLEST << len(channels) - 1, num_labels)  # pixels a side, labels
        falling = channels[::-1]
        pairs = zip(falling, falling[1:], strict=False)
        down = [nn.Conv2d(*pair, 4, 2, 1) for pair in pairs]
        layers = [nn.Conv2d(3, falling[0], 3, padding=1), *down, nn.Conv2d(channels[0], channels[0], SMALLEST)]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, a=0.2)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(channels[0], 1)
        self.embedding = nn.Embedding(num_labels, channels[0])

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)  # (B, C, r, r)
        x = x.flatten(1)  # (B, C)
        return self.head(x)[:, 0] + (self.embedding(label) * x).sum(1) / x.shape[1] ** 0.5


class GAN:
    """A loaded model. Made by `load`, or from parts that are being trained."""

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator | None = None,
        *,
        name: str = "",
        weights_sha256: str = "",
    ):
        self.model, self.discriminator, self.name, self.weights_sha256 = generator, discriminator, name, weights_sha256

    @property
    def device(self) -> torch.device:
        return self.model.embedding.weight.device

    @property
    def parameters(self) -> int:
        """Those that draw."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def resolution_px(self) -> int:
        return self.model.resolution_px

    @property
    def label_names(self) -> list[str]:
        return self.model.label_names

    def rows(self, labels: Sequence[int | str]) -> torch.Tensor:
        """The numbers (B,) of labels by name or number. Raises ValueError that lists the labels."""
        return torch.tensor([row_of(label, self.label_names, None) for label in labels], device=self.device)

    def latents(self, seeds: Sequence[int]) -> torch.Tensor:
        """(B, Z + N) standard normal: z and noise inputs of each picture, from its own seed alone."""
        generators = drawing.generators_of([drawing.check_seed(seed) for seed in seeds])
        return drawing.noise(generators, (self.model.z_dim + self.model.noise_dim,), self.device)

    @torch.no_grad()
    def paint(self, latents: torch.Tensor, labels: Sequence[int | str], truncation: float = TRUNCATION) -> torch.Tensor:
        """(B, 3, R, R) of latents (B, Z + N). Raises ValueError for a label or truncation that there is not."""
        if not drawing.is_number(truncation) or not 0 <= truncation <= 1:
            raise ValueError(f"truncation {repr(truncation)[:60]} is not a number from 0 to 1: {TRUNCATION} is usual")
        z, noise = latents.split([self.model.z_dim, self.model.noise_dim], 1)
        return self.model(z, noise, self.rows(labels), float(truncation)).clamp(-1, 1)

    def draw(
        self, labels: Sequence[int | str], seeds: Sequence[int], *, truncation: float = TRUNCATION
    ) -> list[Image.Image]:
        """One RGB picture, R × R, for each label (name or number) and seed (0 … 2**63 - 1).

        A picture depends on its own seed and label alone: in a batch and by itself it comes out the same within 1/255.
        truncation: 1 draws what was learned, less draws it likelier and less varied, 0 the middle of the label.
        Raises ValueError for anything out of these ranges.
        """
        if len(labels) != len(seeds) or not len(labels):
            raise ValueError(f"{len(labels)} labels for {len(seeds)} seeds: give one label and one seed a picture")
        return self.to_pil(self.paint(self.latents(seeds), labels, truncation))

    def walk(
        self, seed_a: int, seed_b: int, label: int | str, steps: int, *, truncation: float = TRUNCATION
    ) -> list[Image.Image]:
        """`steps` pictures of a label, from that of one seed to that of the other, along a great circle (`slerp`).

        Raises ValueError for fewer than 2 steps, and as `draw` does.
        """
        steps = drawing.check_whole("steps", steps, 2, 1000)
        ends = self.latents([seed_a, seed_b])  # (2, Z + N)
        parts = ends.split([self.model.z_dim, self.model.noise_dim], 1)
        shares = torch.linspace(0, 1, steps, device=self.device)[:, None]  # (steps, 1)
        way = torch.cat([slerp(*part, shares) for part in parts], 1)  # (steps, Z + N)
        return self.to_pil(self.paint(way, [label] * steps, truncation))

    @torch.no_grad()
    def tell(self, pictures: Sequence[Image.Image], labels: Sequence[int | str]) -> np.ndarray:
        """The discriminator's logits (B,) of pictures as those labels: the higher, the more like a real one.

        Raises ValueError where the folder has no discriminator.
        """
        if self.discriminator is None:
            raise ValueError(f"{self.name} comes without its discriminator: it draws, and can't tell")
        pixels = np.stack([np.asarray(frame(picture, self.resolution_px)) for picture in pictures])  # (B, R, R, 3)
        return self.discriminator(from_uint8(pixels).to(self.device), self.rows(labels)).cpu().numpy()

    def to_pil(self, x: torch.Tensor) -> list[Image.Image]:
        """One RGB picture for each row of x (B, 3, R, R) in [-1, 1]; what lies outside is clipped."""
        return [Image.fromarray(pixels) for pixels in to_uint8(x)]

    def receipt(self, labels: Sequence[int | str], seeds: Sequence[int], *, truncation: float = TRUNCATION) -> dict:
        """Everything that draws these pictures again, for JSON: see `drawing`."""
        fields = {
            "model": self.name,
            "weights_sha256": self.weights_sha256,
            "labels": [self.label_names[row] for row in self.rows(labels).tolist()],
            "seeds": [str(seed) for seed in seeds],
            "truncation": truncation,
            "size": [self.resolution_px, self.resolution_px],
        }
        return drawing.sealed(fields, self.device)


def slerp(a: torch.Tensor, b: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Between vectors a and b (D,) at shares (S, 1) of the angle between them, (S, D): Shoemake 1985.

    Draws from a normal distribution stay about as long as such draws are, which a straight line would not.
    """
    cosine = (F.normalize(a, dim=0) @ F.normalize(b, dim=0)).clamp(-1, 1)
    angle = cosine.arccos()
    if angle.sin() < 1e-4:  # the same direction, or nothing to turn: dcgan has no noise inputs
        return torch.lerp(a, b, share)
    return ((1 - share) * angle).sin() / angle.sin() * a + (share * angle).sin() / angle.sin() * b


def load(name: str = "dcgan-32", device: str | torch.device | None = None) -> GAN:
    """The model of a bundled variant, a folder or a Hub repo ("org/repo[@revision]"), in fp32 and eval mode.

    Raises store.CheckpointError, which names the file at fault.
    """
    folder = store.resolve("gan", name)
    where, beside = device or default_device(), folder / DISCRIMINATOR
    with store.opening(folder):
        generator = mixin.opened(folder, Generator).to(where)
        discriminator = mixin.opened(beside, Discriminator).to(where) if beside.is_dir() else None
    if discriminator and discriminator.reads != (generator.resolution_px, len(generator.label_names)):
        raise store.CheckpointError(
            f"{beside}: it reads {discriminator.reads[0]} px and {discriminator.reads[1]} labels, the generator draws "
            f"{generator.resolution_px} px and {len(generator.label_names)}: export both again"
        )
    return GAN(generator, discriminator, name=str(name), weights_sha256=store.weights_sha256(folder))


def save_folder(folder: Path | str, served: GAN) -> None:
    """Write the folder that `load` reads, weights in the precision they have (`publish.halves` makes them fp16)."""
    served.model.save_pretrained(folder)
    if served.discriminator is not None:
        served.discriminator.save_pretrained(Path(folder) / DISCRIMINATOR)
        (Path(folder) / DISCRIMINATOR / "README.md").unlink()  # the folder's card is of both
