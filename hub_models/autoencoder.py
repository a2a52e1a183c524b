"""Pictures to small latents and back: any stock `AutoencoderKL`, scaled as StableDiffusionPipeline scales its latents.

A model folder is what stock diffusers writes, plus one file for what has no place in a stock config:

    config.json  diffusion_pytorch_model.safetensors  preprocessor_config.json {"resolution_px", "ground",
                                                                   "latent_to_rgb", "latent_to_rgb_bias"}

One whose pictures are one vector each (h = w = 1) may have more in it: "latents" (see hub_models/latents.py),
"k_sparse", and the "observation_std" of its likelihood. It draws: from N(0, I), from a class's Gaussian, on a walk.

The stock StableDiffusionPipeline multiplies and divides by `scaling_factor` and reads no `shift_factor`; so a mean that
the latents have is folded into the biases beside them (`centred`), and no shift is left to be read.

Letters: B pictures, R pixels a side, C channels of a latent, (h, w) its cells, f = R / h the reduction.
Pictures are float in [-1, 1] inside and PIL at the edges. "Latents" without another word are scaled:
(z - shift) · scaling.
"""

import copy
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from hub_models import drawing, latents, pretrained, store
from hub_models.device import default_device
from hub_models.documents import read_object
from hub_models.latents import LatentSpace, between
from hub_models.pictures import frame, from_uint8, is_ground, to_uint8

STEM = "autoencoder"
PREPROCESSOR = "preprocessor_config.json"
TEMPERATURE = 0.6  # by default, of samples from the Gaussian of a label: likelier ones, less varied


class Autoencoder:
    """A loaded model. Made by `load`, or from parts that are being trained.

    latent_to_rgb (C, 3) and latent_to_rgb_bias (3,): the colour of a cell in [-1, 1] from its latent; None lets the
    first `preview` fit them to the decoder. space: what is known of latents of one vector. k_sparse: how many numbers
    of a latent are kept, all by default. observation_std: the deviation of pixels in [-1, 1] around what is decoded.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        *,
        resolution_px: int | None = None,
        ground: Sequence[int] = (255, 255, 255),
        latent_to_rgb: torch.Tensor | None = None,
        latent_to_rgb_bias: torch.Tensor | None = None,
        space: LatentSpace | None = None,
        k_sparse: int | None = None,
        observation_std: float | None = None,
        name: str = "",
        weights_sha256: str = "",
    ):
        self.vae = vae
        self.resolution_px = resolution_px or vae.config.sample_size
        self.ground = tuple(ground)
        self.latent_to_rgb, self.latent_to_rgb_bias = latent_to_rgb, latent_to_rgb_bias
        self.space, self.k_sparse, self.observation_std = space, k_sparse, observation_std
        self.name = name
        self.weights_sha256 = weights_sha256

    @property
    def device(self) -> torch.device:
        return self.vae.device

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.vae.parameters())

    @property
    def reduction(self) -> int:
        """Pixels per side of a latent cell."""
        return reduction(self.vae)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.resolution_px // self.reduction
        return self.vae.config.latent_channels, side, side

    def preprocess(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """The pictures as the model wants them, (B, 3, R, R) in [-1, 1]: whole, in a square of the ground colour."""
        pixels = np.stack([np.asarray(frame(p, self.resolution_px, self.ground)) for p in pictures])  # (B, R, R, 3)
        return from_uint8(pixels).to(self.device)

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the latents of each picture, both (B, C, h, w)."""
        return self.encode_tensor(self.preprocess(pictures))

    @torch.no_grad()
    def encode_tensor(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `encode`, of x (B, 3, H, W) in [-1, 1], sides multiples of f."""
        posterior = self.vae.encode(x).latent_dist
        shift, scaling = scale_of(self.vae)
        mean = posterior.mean if self.k_sparse is None else k_largest(posterior.mean, self.k_sparse)
        return (mean - shift) * scaling, posterior.std * scaling  # (B, C, h, w) ×2

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The pictures of latents (B, C, h, w), (B, 3, f·h, f·w) in [-1, 1]."""
        shift, scaling = scale_of(self.vae)
        return self.vae.decode(latents.to(self.device) / scaling + shift).sample.clamp(-1, 1)

    def sample(
        self, labels: Sequence[int | str | None], seeds: Sequence[int], *, temperature: float = TEMPERATURE
    ) -> torch.Tensor:
        """One picture for each label and seed, (B, 3, R, R) in [-1, 1], of a model with one vector a picture.

        labels: numbers or names, from whose Gaussian the latent is drawn; None or "any": from N(0, I). seeds: 0 …
        2**63 - 1. A picture is of its own seed and label. temperature: 1 draws what was learned, less draws it likelier
        and less varied, 0 the middle of the label. Raises ValueError for a label, seed or temperature that there is
        not, for another number of seeds than labels, and for a model that has more than one vector a picture, or no
        Gaussians.
        """
        if not drawing.is_number(temperature) or not 0 <= temperature <= 1:
            raise ValueError(f"temperature {repr(temperature)[:60]} is no number from 0 to 1: {TEMPERATURE} is usual")
        if len(labels) != len(seeds) or not len(labels):
            raise ValueError(f"{len(labels)} labels for {len(seeds)} seeds: give one label and one seed a picture")
        generators = drawing.generators_of([drawing.check_seed(seed) for seed in seeds])
        noise = drawing.noise(generators, (self._vector,), self.device)  # (B, C)
        if any(label not in (None, "any") for label in labels):
            latents = self._space.draw(labels, noise, temperature)
        else:
            latents = temperature * noise
        return self.decode(latents[:, :, None, None])

    def walk(self, first: Image.Image, second: Image.Image, steps: int = 9) -> torch.Tensor:
        """The pictures on the way from one to the other, (steps, 3, R, R), by `latents.between`; 2 … 64 steps.

        Raises ValueError for another number, and for a model that has more than one vector a picture.
        """
        steps, size = drawing.check_whole("steps", steps, 2, 64), self._vector
        ends = self.encode([first, second])[0].view(2, size)
        return self.decode(between(*ends, steps)[:, :, None, None])

    def moved(
        self, picture: Image.Image, direction: str, to: str | None = None, amounts: Sequence[float] = (0, 0.5, 1, 1.5)
    ) -> torch.Tensor:
        """The picture with so many times a direction added to its latent, (len(amounts), 3, R, R).

        direction: the name of a kept one ("frowning face → smiling face"), or with `to` a label to come from. Raises
        ValueError that lists what there is.
        """
        vector = self._space.direction(direction, to).to(self.device)
        latent = self.encode([picture])[0].view(1, self._vector)
        by = torch.tensor([float(amount) for amount in amounts], device=self.device)[:, None]
        return self.decode((latent + by * vector)[:, :, None, None])

    @property
    def _vector(self) -> int:
        """C of a model with one vector a picture; ValueError for another."""
        channels, height, width = self.latent_shape
        if (height, width) != (1, 1):
            raise ValueError(f"{self.name or 'this autoencoder'} has {height} × {width} vectors a picture, not one")
        return channels

    @property
    def _space(self) -> LatentSpace:
        if self.space is None:
            raise ValueError(f"{self.name or 'this autoencoder'} keeps no Gaussians of labels: pass None for a label")
        return self.space

    @torch.no_grad()
    def preview(self, latents: torch.Tensor) -> np.ndarray:
        """One coloured pixel for each cell of latents (B, C, h, w): uint8 (B, h, w, 3), without the decoder."""
        weight, bias = (part.to(latents) for part in self.linear_map())
        return to_uint8(torch.einsum("bchw,cd->bdhw", latents, weight) + bias.view(1, 3, 1, 1))

    def linear_map(self) -> tuple[torch.Tensor, torch.Tensor]:
        """latent_to_rgb (C, 3) and latent_to_rgb_bias (3,), fitted to the decoder where there are none yet."""
        if self.latent_to_rgb is None or self.latent_to_rgb_bias is None:
            self.latent_to_rgb, self.latent_to_rgb_bias = self._fit_to_decoder()
        return self.latent_to_rgb, self.latent_to_rgb_bias

    def _fit_to_decoder(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The linear map for a folder that ships none: from what the decoder makes of random patches of latents."""
        draw, channels = torch.Generator().manual_seed(0), self.vae.config.latent_channels
        patches = torch.randn(8 + channels, channels, 4, 4, generator=draw).repeat_interleave(2, -1)
        latents = patches.repeat_interleave(2, -2).to(self.device)  # (N, C, 8, 8)
        pictures = torch.cat([self.decode(part) for part in latents.split(4)])  # (N, 3, 8 f, 8 f)
        return fit_latent_to_rgb(latents, pictures)


def reduction(vae: AutoencoderKL) -> int:
    """Pixels per side of a latent cell, f."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def scale_of(vae: AutoencoderKL) -> tuple[float, float]:
    """(shift, scaling) of a config: latents are (z - shift) · scaling."""
    return vae.config.shift_factor or 0.0, vae.config.scaling_factor


def k_largest(code: torch.Tensor, k: int) -> torch.Tensor:
    """The code (B, C, h, w) with all but the k numbers of largest magnitude of each picture 0.

    Makhzani & Frey 2014, "k-sparse autoencoders", algorithm 1.
    """
    flat = code.flatten(1)
    kept = torch.zeros_like(flat).scatter(1, flat.abs().topk(k, dim=1).indices, 1.0)
    return (flat * kept).view_as(code)


def fit_latent_to_rgb(latents: torch.Tensor, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The linear map (C, 3) and bias (3,) from latents to colours in [-1, 1] with the least squared error.

    latents (N, C, h, w); pictures (N, 3, H, W), averaged over the area of each cell.
    """
    colours = torch.nn.functional.adaptive_avg_pool2d(pictures, (latents.shape[-2], latents.shape[-1]))  # (N, 3, h, w)
    x, y = (t.movedim(1, -1).flatten(0, -2).double().cpu() for t in (latents, colours))  # (N·h·w, C), (N·h·w, 3)
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)  # (N·h·w, C + 1)
    solution = torch.linalg.lstsq(
        x, y, driver="gelsd"
    ).solution.float()  # gelsd: a dead channel leaves it rank-deficient
    return solution[:-1], solution[-1]


def centred(vae: AutoencoderKL, mean: torch.Tensor, scaling: float) -> AutoencoderKL:
    """A copy whose latents have lost `mean` (C,) and whose config says `scaling`; it codes and decodes the same.

    The mean goes into the biases of the two 1 × 1 convolutions around the latents, which is exact. Raises ValueError
    where a model has none of these.
    """
    if vae.quant_conv is None or vae.post_quant_conv is None:
        raise ValueError("a mean can be folded into quant_conv and post_quant_conv only, and this model has none")
    vae = copy.deepcopy(vae)
    with torch.no_grad():
        mean = mean.to(vae.quant_conv.bias)
        vae.quant_conv.bias[: len(mean)] -= mean
        vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    vae.register_to_config(scaling_factor=float(scaling), shift_factor=None)
    return vae


def save_folder(folder: Path, model: Autoencoder) -> None:
    """Write the stock files and preprocessor_config.json. The layout is defined here and nowhere else."""
    weight, bias = model.linear_map()
    model.vae.save_pretrained(folder, safe_serialization=True)
    extra = {
        "resolution_px": model.resolution_px,
        "ground": list(model.ground),
        "latent_to_rgb": _rounded(weight),
        "latent_to_rgb_bias": _rounded(bias),
    }
    own = {"k_sparse": model.k_sparse, "observation_std": model.observation_std}
    own["latents"] = model.space and model.space.as_json()
    extra |= {key: value for key, value in own.items() if value is not None}
    Path(folder, PREPROCESSOR).write_text(json.dumps(extra, indent=1) + "\n")


def _rounded(values: torch.Tensor) -> list:
    return np.round(values.double().cpu().numpy(), 6).tolist()


def resolve(name: str) -> Path:
    """The verified folder of the AutoencoderKL itself. A bundled one is the vae/ of text_to_image's of its name.

    A folder or Hub id may be the autoencoder's own, or that of a pipeline with a vae/ in it. Raises
    store.CheckpointError.
    """
    folder = store.resolve(STEM, name)
    return folder / "vae" if (folder / "vae" / "config.json").is_file() else folder


def load(name: str = "emoji", device: str | torch.device | None = None) -> Autoencoder:
    """The autoencoder of a bundled variant, a folder or a Hub repo ("org/repo[@revision]"), in fp32 and eval mode.

    A stock folder without preprocessor_config.json loads too, at the config's sample_size; so does the folder of any
    pipeline with a vae/ of this kind in it. Raises store.CheckpointError, which names the file at fault.
    """
    name = str(name)
    folder = resolve(name)
    with store.opening(folder):
        served = _open(folder, name)
    served.vae.to(device or default_device())
    return served


def _open(folder: Path, name: str) -> Autoencoder:
    if not (folder / "config.json").is_file():
        raise store.CheckpointError(f"{folder} is a pipeline without a vae/: name one that has an AutoencoderKL")
    kind = read_object(folder / "config.json").get("_class_name")
    if kind != "AutoencoderKL":
        raise store.CheckpointError(
            f"{folder}/config.json is of a {kind}: this needs an AutoencoderKL, such as training/autoencoder exports"
        )
    vae = pretrained.open_diffusers(folder, AutoencoderKL, "autoencoder")
    if (vae.config.in_channels, vae.config.out_channels) != (3, 3) or not vae.config.scaling_factor:
        raise store.CheckpointError(
            f"{folder}/config.json: need 3 channels in and out and a scaling_factor that is not 0"
        )
    extra = _read_extra(folder / PREPROCESSOR, vae)
    return Autoencoder(
        vae,
        name=name,
        weights_sha256=store.weights_sha256(folder),
        **extra,
    )


def _read_extra(path: Path, vae: AutoencoderKL) -> dict:
    """The arguments of `Autoencoder` that preprocessor_config.json holds, checked; none where there is no such file."""
    if not path.is_file():
        return {}
    saved = read_object(path)
    extra = {"resolution_px": saved.get("resolution_px", vae.config.sample_size)}
    side, step = extra["resolution_px"], reduction(vae)
    if isinstance(side, bool) or not isinstance(side, int) or side < step or side % step:
        raise store.CheckpointError(f"{path}: resolution_px {side!r} is no multiple of {step}; correct it")
    ground = saved.get("ground", [255, 255, 255])
    if not is_ground(ground):
        raise store.CheckpointError(f"{path}: ground {ground!r} is not three numbers from 0 to 255; correct it")
    extra["ground"] = ground
    if "latent_to_rgb" in saved:
        try:
            weight = torch.tensor(saved["latent_to_rgb"], dtype=torch.float32)  # (C, 3)
            bias = torch.tensor(saved.get("latent_to_rgb_bias", [0, 0, 0]), dtype=torch.float32)  # (3,)
        except (TypeError, ValueError) as error:
            raise store.CheckpointError(f"{path}: latent_to_rgb is no table of numbers; export it again") from error
        if weight.shape != (vae.config.latent_channels, 3) or bias.shape != (3,) or not weight.isfinite().all():
            shape = f"{tuple(weight.shape)} and {tuple(bias.shape)}"
            wanted = f"({vae.config.latent_channels}, 3) and (3,)"
            raise store.CheckpointError(
                f"{path}: latent_to_rgb and its bias are {shape} instead of {wanted}; export again"
            )
        extra |= {"latent_to_rgb": weight, "latent_to_rgb_bias": bias}
    return extra | _read_own(path, saved, vae.config.latent_channels * (side // step) ** 2)


def _read_own(path: Path, saved: dict, size: int) -> dict:
    """The arguments that a model with latents of `size` numbers alone has, checked."""
    found: dict = {}
    if "k_sparse" in saved:
        if not drawing.is_whole(saved["k_sparse"], 1, size):
            raise store.CheckpointError(f"{path}: k_sparse {str(saved['k_sparse'])[:40]} is not 1 … {size}; correct it")
        found["k_sparse"] = saved["k_sparse"]
    if "observation_std" in saved:
        if not drawing.is_number(saved["observation_std"]) or saved["observation_std"] <= 0:
            raise store.CheckpointError(f"{path}: observation_std is no number above 0; correct it")
        found["observation_std"] = float(saved["observation_std"])
    if "latents" in saved:
        try:
            found["space"] = latents.from_json(saved["latents"], size)
        except ValueError as error:
            raise store.CheckpointError(f"{path}: {error}; export it again") from error
    return found
