"""A picture in another style: a U-Net that is told which, and the discriminator of patches that it learned against.

No library has these two, so a model folder is what `huggingface_hub.PyTorchModelHubMixin` writes of them:

    config.json  model.safetensors                                the U-Net; config.json has its arguments and a world
    discriminator/config.json  discriminator/model.safetensors    the discriminator; may be missing

Letters: B pictures, R pixels a side, K styles, C channels, P places of the discriminator's answer a side.
Pictures are float in [-1, 1] inside and PIL at the edges.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from PIL import Image
from torch import nn

from hub_models import mixin, store
from hub_models.device import default_device
from hub_models.pictures import frame, from_uint8, to_uint8
from hub_models.ways import row_of
from hub_models.worlds import World, world_of

DISCRIMINATOR = "discriminator"  # its folder in the U-Net's
MAX_LEVELS = 9  # of channels
MAX_PX = 1024  # a side
GROUPS = 8  # of channels that are normalised together
BATCH = 64  # pictures that are translated at once


class StyleUNet(nn.Module, PyTorchModelHubMixin):
    """(B, 3, R, R) in styles (B,) of pictures x (B, 3, R, R): any style in, the one asked for out.

    A U-Net (Ronneberger et al. 2015) as in Isola et al. 2017, §3.2.1: strided convolutions down, and up again with what
    was there at each size beside it. The way down doesn't know the style; on the way up its embedding scales and shifts
    what is normalised (Perez et al. 2018; Dumoulin et al. 2017 for styles). Each picture is normalised by itself (Wu &
    He 2018), and there is no dropout: the same picture gives the same answer.
    channels: at R, R/2, R/4, … px; multiples of 8. Raises ValueError for what is none of these.
    """

    def __init__(self, channels: list[int], style_dim: int, resolution_px: int, style_names: list[str]):
        super().__init__()
        check_channels(channels)
        if not isinstance(style_names, list) or not all(isinstance(name, str) for name in style_names):
            raise ValueError("style_names is not a list of text")
        halves = 1 << len(channels) - 1
        if type(resolution_px) is not int or not 1 <= resolution_px <= MAX_PX or resolution_px % halves:
            raise ValueError(
                f"resolution_px {str(resolution_px)[:40]} is no multiple of {halves}, for {len(channels)} channels, up "
                f"to {MAX_PX}"
            )
        self.resolution_px, self.style_names = resolution_px, style_names
        self.embedding = nn.Embedding(len(style_names), style_dim)
        pairs = [*zip(channels, channels[1:], strict=False)]
        self.first = nn.Conv2d(3, channels[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(*pair, 4, 2, 1) for pair in pairs)
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, wide) for wide in channels[1:])
        self.middle = nn.ModuleList(Told(channels[-1], channels[-1], style_dim) for _ in range(2))
        self.up = nn.ModuleList(Told(small + large, large, style_dim) for large, small in reversed(pairs))
        self.to_rgb = nn.Conv2d(channels[0], 3, 3, padding=1)

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        told = self.embedding(style)  # (B, S)
        seen = [self.first(x)]  # (B, C, R, R)
        for down, norm in zip(self.down, self.norms, strict=True):
            seen.append(norm(down(F.leaky_relu(seen[-1], 0.2))))  # (B, C', r / 2, r / 2)
        x = seen.pop()
        first, second = self.middle
        x = x + second(first(x, told), told)
        for up in self.up:
            wide = F.interpolate(x, scale_factor=2, mode="nearest")
            x = up(torch.cat([wide, seen.pop()], 1), told)  # (B, C, 2 r, 2 r)
        return self.to_rgb(F.leaky_relu(x, 0.2)).tanh()


class Told(nn.Module):
    """leaky ReLU, a convolution, and scale and shift by what is told (B, S): (B, C, r, r) → (B, C', r, r)."""

    def __init__(self, wide_in: int, wide: int, told_dim: int):
        super().__init__()
        self.conv = nn.Conv2d(wide_in, wide, 3, padding=1)
        self.norm = nn.GroupNorm(GROUPS, wide, affine=False)
        self.told = nn.Linear(told_dim, 2 * wide)
        nn.init.zeros_(self.told.bias)

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        scale, shift = self.told(told)[:, :, None, None].chunk(2, 1)
        return self.norm(self.conv(F.leaky_relu(x, 0.2))) * (1 + scale) + shift


class PatchDiscriminator(nn.Module, PyTorchModelHubMixin):
    """A number for each patch of x (B, 3, R, R) as a picture in styles (B,): (B, P, P), 1 for real and 0 for made.

    Isola et al. 2017, §3.2.2 ("PatchGAN"), trained by least squares (Mao et al. 2017), without normalisation, so that a
    number is of its patch of `patch_px` a side alone. Each style has a head of its own (Choi et al. 2020, §2.1).
    channels: of strided convolutions, but the last, which isn't strided; multiples of 8. conditional: it also sees the
    picture that x was made of. Raises ValueError for what is none of these.
    """

    def __init__(self, channels: list[int], num_styles: int, conditional: bool):
        super().__init__()
        check_channels(channels)
        if not isinstance(conditional, bool):
            raise ValueError(f"conditional {str(conditional)[:40]} is neither true nor false")
        self.num_styles, self.conditional = num_styles, conditional
        strides = [*[2] * (len(channels) - 1), 1]
        pairs = zip([6 if conditional else 3, *channels], channels, strict=False)
        layers = [nn.Conv2d(*pair, 4, stride, 1) for pair, stride in zip(pairs, strides, strict=True)]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, a=0.2)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Conv2d(channels[-1], num_styles, 4, 1, 1)
        self.patch_px = 4  # a side, that a number depends on
        for stride in reversed(strides):
            self.patch_px = (self.patch_px - 1) * stride + 4

    def forward(self, x: torch.Tensor, style: torch.Tensor, made_of: torch.Tensor | None = None) -> torch.Tensor:
        """made_of (B, 3, R, R): what x was translated from; one that isn't conditional doesn't read it."""
        if self.conditional:
            assert made_of is not None
            x = torch.cat([x, made_of], 1)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)  # (B, C, r, r)
        return self.head(x)[torch.arange(len(x), device=style.device), style]  # (B, P, P)


def check_channels(channels: list[int]) -> None:
    """Raises ValueError for what is no list of the channels of 1 to MAX_LEVELS levels."""
    if not isinstance(channels, list) or not 1 <= len(channels) <= MAX_LEVELS:
        raise ValueError(f"channels is not a list of 1 to {MAX_LEVELS} numbers, one a level")
    if not all(type(wide) is int and wide > 0 and wide % GROUPS == 0 for wide in channels):
        raise ValueError(f"channels {str(channels)[:60]} are not all multiples of {GROUPS}")


class Translator:
    """A loaded model. Made by `load`, or from parts that are being trained.

    world: which pictures it was trained on; None where the folder doesn't say.
    """

    def __init__(
        self,
        model: StyleUNet,
        discriminator: PatchDiscriminator | None = None,
        *,
        world: World | None = None,
        name: str = "",
        weights_sha256: str = "",
    ):
        self.model, self.discriminator, self.world = model, discriminator, world
        self.name, self.weights_sha256 = name, weights_sha256

    @property
    def device(self) -> torch.device:
        return self.model.embedding.weight.device

    @property
    def parameters(self) -> int:
        """Those that translate."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def resolution_px(self) -> int:
        return self.model.resolution_px

    @property
    def style_names(self) -> list[str]:
        return self.model.style_names

    def rows(self, styles: Sequence[int | str]) -> torch.Tensor:
        """The numbers (B,) of styles by name or number. Raises ValueError that lists the styles."""
        return torch.tensor([style_row(style, self.style_names) for style in styles], device=self.device)

    def preprocess(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """The pictures as the model sees them, (B, 3, R, R) in [-1, 1]: whole, in a white square."""
        pixels = np.stack([np.asarray(frame(picture, self.resolution_px)) for picture in pictures])  # (B, R, R, 3)
        return from_uint8(pixels).to(self.device)

    @torch.no_grad()
    def translate_tensor(self, x: torch.Tensor, styles: Sequence[int | str]) -> torch.Tensor:
        """As `translate`, of x (B, 3, R, R) in [-1, 1], to the same."""
        rows = self.rows(styles)
        parts = zip(x.to(self.device).split(BATCH), rows.split(BATCH), strict=True)
        return torch.cat([self.model(part, which) for part, which in parts])

    def translate(self, pictures: Sequence[Image.Image], styles: Sequence[int | str]) -> list[Image.Image]:
        """Each picture in the style of its row, by name or number: RGB, R × R; what is transparent becomes white.

        The style of what goes in isn't asked for. A result depends on its own row alone: in a batch and by itself it
        comes out the same within 1/255. Raises ValueError for a style that there is not, which lists those there are,
        and for another number of styles than pictures.
        """
        if len(pictures) != len(styles) or not len(pictures):
            raise ValueError(f"{len(pictures)} pictures for {len(styles)} styles: give one picture and one style a row")
        made = self.translate_tensor(self.preprocess(pictures), styles)
        return [Image.fromarray(pixels) for pixels in to_uint8(made)]


def style_row(style: int | str, style_names: Sequence[str]) -> int:
    """The number of a style by name or number. Raises ValueError that lists the styles."""
    try:
        row = row_of(style, style_names, None)
    except ValueError:
        row = None
    if row is None:
        raise ValueError(
            f"style {str(style)[:60]!r} is unknown: choose a number from 0 to {len(style_names) - 1}, or one of "
            f"{', '.join(style_names)}"
        )
    return row


def load(name: str = "pix2pix-32", device: str | torch.device | None = None) -> Translator:
    """The model of a bundled variant, a folder or a Hub repo ("org/repo[@revision]"), in fp32 and eval mode.

    Raises store.CheckpointError, which names the file at fault.
    """
    folder = store.resolve("translation", name)
    where, beside = device or default_device(), folder / DISCRIMINATOR
    with store.opening(folder):
        model = mixin.opened(folder, StyleUNet).to(where)
        discriminator = mixin.opened(beside, PatchDiscriminator).to(where) if beside.is_dir() else None
        world = world_of(folder)
    if discriminator and discriminator.num_styles != len(model.style_names):
        raise store.CheckpointError(
            f"{beside}: it knows {discriminator.num_styles} styles, the U-Net {len(model.style_names)}: "
            "export both again"
        )
    return Translator(model, discriminator, world=world, name=str(name), weights_sha256=store.weights_sha256(folder))


def save_folder(folder: Path | str, served: Translator) -> None:
    """Write the folder that `load` reads, weights in the precision they have (`publish.halves` makes them fp16)."""
    served.model.save_pretrained(folder)
    if served.discriminator is not None:
        served.discriminator.save_pretrained(Path(folder) / DISCRIMINATOR)
        (Path(folder) / DISCRIMINATOR / "README.md").unlink()  # the folder's card is of both
