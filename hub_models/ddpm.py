"""Pictures out of noise: a U-Net diffusion model on pixels, class-conditional or not.

A model folder is what stock diffusers writes for a `DDPMPipeline`, plus one file for what has no place in a
stock config:

    model_index.json  unet/  scheduler/  preprocessor_config.json {"label_names", "null_label", "resolution_px",
                                                                   "guidance_scale", "ground"}

Letters: B pictures, R pixels a side, K labels. Pictures are float in [-1, 1] inside and PIL at the edges.
t counts the scheduler's timesteps, 0 … T-1; alpha_bar_t is `scheduler.alphas_cumprod[t]`.
"""

import dataclasses
import json
import math
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image

from hub_models import drawing, pretrained, samplers, store
from hub_models.device import default_device
from hub_models.documents import read_object
from hub_models.drawing import RECEIPT_KEY as RECEIPT_KEY  # for who writes it
from hub_models.drawing import Step, predict_x0
from hub_models.pictures import frame, from_uint8, is_ground, to_uint8
from hub_models.ways import Asked, Fork, Guide, Way, row_of, ways_of


class DDPM:
    """A loaded model. Made by `load`, or from parts that are being trained."""

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: DDPMScheduler,
        *,
        label_names: Sequence[str] = (),
        null_label: int | None = None,
        resolution_px: int | None = None,
        guidance_scale: float = 1.0,
        ground: Sequence[int] = (255, 255, 255),
        name: str = "",
        weights_sha256: str = "",
    ):
        self.unet = unet
        self.scheduler = scheduler
        self.label_names = list(label_names)
        self.null_label = null_label
        self.resolution_px = resolution_px or unet.config.sample_size
        self.default_guidance = guidance_scale
        self.ground = tuple(ground)
        self.name = name
        self.weights_sha256 = weights_sha256

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.unet.parameters())

    @property
    def num_train_timesteps(self) -> int:
        return self.scheduler.config.num_train_timesteps

    @property
    def shape(self) -> tuple[int, int, int]:
        return (3, self.resolution_px, self.resolution_px)

    def label_index(self, label: int | str | None) -> int | None:
        """See `ways.row_of`."""
        return row_of(label, self.label_names, self.null_label)

    def initial_noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """The noise that sampling starts from, (B, 3, R, R). Picture k's depends on seed k alone."""
        return drawing.noise(drawing.generators_of(seeds), self.shape, self.device)

    def generate(
        self,
        labels: Sequence[int | str | None],
        seeds: Sequence[int],
        *,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        sampler: str = "ddim",
        guide: Guide | None = None,
        guide_scale: float = 0.0,
        fork: Fork | None = None,
        start: torch.Tensor | None = None,
        done: int = 0,
    ) -> Generator[Step]:
        """One `Step` for every step of sampling; the last one's x_t is the pictures. Close it to stop at once.

        labels: one for each picture, its number or name; None or "any" leaves the class to the model.
        seeds: one for each picture, 0 … 2**63 - 1. A picture depends on its own seed and label alone: in a batch and
            by itself it comes out the same within 1/255 (floating point sums differ), on every device alike.
        num_inference_steps: 1 … T. guidance_scale: 1 means none and costs half; None means the model's own.
        sampler: "ddpm" (Ho et al. 2020; timesteps as the saved scheduler spaces them, as DDPMPipeline does),
            "ddim" (Song et al. 2021, η = 0), "dpm++" (DPM-Solver++ 2M, Lu et al. 2022), "langevin" (Song & Ermon
            2019; annealed, needs some 100 steps).
        guide, guide_scale: a classifier whose gradient towards the label is followed, γ times, beside the other
            guidance, or with guidance_scale=1 instead of it; γ = 0 is none. See `samplers.towards`.
        fork: the drawing is the same up to and with step fork.at, and goes on as it says, over the same timesteps.
        start, done: x_t (B, 3, R, R) to go on from where so many steps are done, 0 … num_inference_steps - 1, in the
            place of the noise of the seeds: one's own, or a picture with noise on it.
        Raises ValueError, here and not at the first step, for anything out of these ranges.
        """
        if len(labels) != len(seeds) or not len(labels):
            raise ValueError(f"{len(labels)} labels for {len(seeds)} seeds: give one label and one seed a picture")
        seeds = [drawing.check_seed(seed) for seed in seeds]
        steps = drawing.check_whole("num_inference_steps", num_inference_steps, 1, self.num_train_timesteps)
        done = drawing.check_whole("done", done, 0, steps - 1 if start is not None else 0)
        if start is not None and start.shape != (len(seeds), *self.shape):
            raise ValueError(f"start has the shape {tuple(start.shape)}, not that of {len(seeds)} pictures")
        asked = Asked(labels, guidance_scale, sampler, guide_scale)
        return self._steps(ways_of(self, asked, guide, fork, steps), seeds, guide, start, done)

    @torch.no_grad()
    def _steps(self, ways: Sequence[Way], seeds: Sequence[int], guide: Guide | None, start, done) -> Generator[Step]:
        generators, before = drawing.generators_of(seeds), None
        large = self.scheduler.config.variance_type.startswith("fixed_large")

        def fresh() -> torch.Tensor:
            return drawing.noise(generators, self.shape, self.device)  # (B, 3, R, R)

        x = fresh() if start is None else start.to(self.device)
        levels = samplers.levels(self.scheduler, ways[0].sampler, len(ways))
        for index, level in enumerate(levels[done:], done):
            way, a = ways[index], level.a.to(self.device)
            output = self._evaluate(x, level.timestep, way.rows, way.scale)  # (B, 3, R, R)
            x0 = predict_x0(output, x, a, self.scheduler.config.prediction_type)
            if guide and way.guide_scale:
                x0 = samplers.towards(x0, guide.gradient(x, float(a), self._asked(way.rows)), a, way.guide_scale)
            x0 = clipped(self.scheduler, x0)
            eps = samplers.noise_in(x, x0, a)
            x = samplers.advance(way.sampler, level, x, x0, before, fresh, large)
            before = (x0, a)
            yield Step(index, len(ways), level.timestep, x, x0, noise=eps, alpha_bar=float(a))

    def _evaluate(self, x: torch.Tensor, t: int, rows: list[int | None], scale: float) -> torch.Tensor:
        """The model's output at x (B, 3, R, R), guided: one forward pass, of 2 B where guidance needs both."""
        if not self.unet.config.num_class_embeds:
            return self.unet(x, t).sample  # (B, 3, R, R)
        label = torch.tensor(rows, device=x.device)  # (B,)
        if scale == 1 or self.null_label is None or all(row == self.null_label for row in rows):
            return self.unet(x, t, class_labels=label).sample
        null = torch.full_like(label, self.null_label)
        both = self.unet(torch.cat([x, x]), t, class_labels=torch.cat([null, label])).sample  # (2 B, 3, R, R)
        return drawing.guide(*both.chunk(2), scale)

    @torch.no_grad()
    def forward_process(
        self, image: Image.Image, t: int, seed: int, label: int | str | None = None
    ) -> tuple[Image.Image, Image.Image]:
        """(x_t, predicted x0), both R × R: the picture t steps into the noise, and the model's guess of what it was.

        q(x_t | x_0) = N(sqrt(ᾱ_t) x_0, 1 - ᾱ_t): Ho et al. 2020, eq. 4. t is 0 … T-1; ValueError outside.
        """
        t = drawing.check_whole("t", t, 0, self.num_train_timesteps - 1)
        alpha_bar = self.scheduler.alphas_cumprod[t].to(self.device)
        x_0 = self.to_tensor(image).to(self.device)  # (1, 3, R, R)
        x_t = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * self.initial_noise([seed])  # (1, 3, R, R)
        return self.to_pil(x_t)[0], self.to_pil(self.look(x_t, t, label).x0)[0]

    @torch.no_grad()
    def look(self, x: torch.Tensor, t: int, label: int | str | None = None) -> Step:
        """What the model sees in any x (B, 3, R, R) at timestep t, 0 … T-1: x0, noise, score; x_t is x itself.

        Without guidance, and clipped as in sampling. Raises ValueError for a t or a label that there is not.
        """
        t = drawing.check_whole("t", t, 0, self.num_train_timesteps - 1)
        alpha_bar = self.scheduler.alphas_cumprod[t].to(self.device)
        output = self._evaluate(x, t, [self.label_index(label)] * len(x), 1.0)
        x0 = clipped(self.scheduler, predict_x0(output, x, alpha_bar, self.scheduler.config.prediction_type))
        return Step(0, 1, t, x, x0, noise=samplers.noise_in(x, x0, alpha_bar), alpha_bar=float(alpha_bar))

    def to_tensor(self, image: Image.Image) -> torch.Tensor:
        """(1, 3, R, R) in [-1, 1]: alpha composited on the ground, padded to a square with it, resized."""
        return from_uint8(np.asarray(frame(image, self.resolution_px, self.ground))[None])

    def to_pil(self, x: torch.Tensor) -> list[Image.Image]:
        """One RGB picture for each row of x (B, 3, R, R) in [-1, 1]; what lies outside is clipped."""
        return [Image.fromarray(pixels) for pixels in to_uint8(x)]

    def receipt(
        self,
        labels: Sequence,
        seeds: Sequence[int],
        *,
        num_inference_steps: int,
        guidance_scale: float,
        sampler: str,
        guide: Guide | None = None,
        guide_scale: float = 0.0,
        fork: Fork | None = None,
        steps_done: int | None = None,
    ) -> dict:
        """Everything that draws these pictures again, for JSON: see `drawing`. steps_done: the steps taken."""
        fields = {
            "model": self.name,
            "weights_sha256": self.weights_sha256,
            "labels": self._names(labels),
            "seeds": [str(seed) for seed in seeds],
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "sampler": sampler,
            "size": [self.resolution_px, self.resolution_px],
        }
        if guide is not None:
            fields |= {"guide": guide.name, "guide_sha256": guide.weights_sha256, "guide_scale": guide_scale}
        if fork is not None:
            towards = None if fork.labels is None else self._names(fork.labels)
            fields["fork"] = dataclasses.asdict(fork) | {"labels": towards}
        fields |= {} if steps_done is None else {"steps_done": steps_done}
        return drawing.sealed(fields, self.device)

    def _names(self, labels: Sequence) -> list[str]:
        return [label or "any" for label in self._asked([self.label_index(label) for label in labels])]

    def _asked(self, rows: Sequence[int | None]) -> list[str | None]:
        """The labels' names, None where the class is left to the model."""
        return [None if row in (None, self.null_label) else self.label_names[row] for row in rows]


def clipped(scheduler: DDPMScheduler, x0: torch.Tensor) -> torch.Tensor:
    """x0 within the range that the scheduler keeps pictures in, as it does so itself."""
    if scheduler.config.thresholding:
        return scheduler._threshold_sample(x0)  # Saharia et al. 2022, §2.3
    most = scheduler.config.clip_sample_range
    return x0.clamp(-most, most) if scheduler.config.clip_sample else x0


def load(name: str = "emoji-32", device: str | torch.device | None = None) -> DDPM:
    """The model of a bundled variant, a folder or a Hub repo ("org/repo[@revision]"), in fp32 and eval mode.

    A stock DDPMPipeline folder without preprocessor_config.json loads too, with numbers for label names.
    Raises store.CheckpointError, which names the file at fault.
    """
    folder = store.resolve("ddpm", name)
    with store.opening(folder):
        served = _open(folder, str(name))
    served.unet.to(device or default_device())
    return served


def _open(folder: Path, name: str) -> DDPM:
    index = read_object(folder / "model_index.json")
    if index.get("_class_name") != "DDPMPipeline":
        raise store.CheckpointError(
            f"{folder}/model_index.json is of a {index.get('_class_name')}: this page needs a DDPMPipeline folder, "
            "such as training/ddpm.py exports"
        )
    unet = pretrained.open_diffusers(folder / "unet", UNet2DModel, "unet")
    # Whatever sampler the folder names, its noise schedule is what we read.
    scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler", trust_remote_code=False)
    config = unet.config
    if (config.in_channels, config.out_channels) != (3, 3) or not isinstance(config.sample_size, int):
        raise store.CheckpointError(
            f"{folder}/unet/config.json: {config.in_channels} channels in, {config.out_channels} out, sample_size "
            f"{config.sample_size}; only square RGB models with a fixed variance (3 in, 3 out) can be served"
        )
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction", "sample"):
        raise store.CheckpointError(
            f"{folder}/scheduler: prediction_type {scheduler.config.prediction_type!r} is not epsilon, v_prediction "
            "or sample"
        )
    extra = _read_preprocessor(folder / "preprocessor_config.json", unet)
    return DDPM(unet, scheduler, name=name, weights_sha256=store.weights_sha256(folder), **extra)


def save_folder(
    folder: Path | str,
    unet: UNet2DModel,
    scheduler: DDPMScheduler,
    *,
    label_names: Sequence[str],
    null_label: int | None,
    resolution_px: int,
    guidance_scale: float,
    ground: Sequence[int] = (255, 255, 255),
) -> None:
    """Write the folder that `load` reads, weights in the precision they have (`publish.halves` makes them fp16).

    Raises ValueError where labels and embedding disagree.
    """
    extra = {
        "label_names": list(label_names),
        "null_label": null_label,
        "resolution_px": resolution_px,
        "guidance_scale": guidance_scale,
        "ground": list(ground),
    }
    if problem := _disagreement(extra, unet):
        raise ValueError(f"not saved: {problem}")
    folder = Path(folder)
    DDPMPipeline(unet, scheduler).save_pretrained(folder, safe_serialization=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(extra, indent=2) + "\n", encoding="utf-8")


def _read_preprocessor(path: Path, unet: UNet2DModel) -> dict:
    """label_names, null_label, resolution_px, guidance_scale, ground: from the file, checked against the U-Net."""
    rows = unet.config.num_class_embeds or 0
    extra = {
        "label_names": [str(row) for row in range(rows)],
        "null_label": None,
        "resolution_px": unet.config.sample_size,
        "guidance_scale": 1.0,
        "ground": [255, 255, 255],
    }
    if path.exists():
        saved = read_object(path)
        extra |= {key: saved[key] for key in extra if key in saved}
    if problem := _disagreement(extra, unet):
        raise store.CheckpointError(f"{path}: {problem}; correct it or export again")
    return extra


def _disagreement(extra: dict, unet: UNet2DModel) -> str | None:
    names, null, rows = extra["label_names"], extra["null_label"], unet.config.num_class_embeds or 0
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return "label_names is not a list of text"
    if len(names) > rows or (rows and not names):
        return f"{len(names)} label_names for {rows} class embeddings"
    if null is not None and (isinstance(null, bool) or not isinstance(null, int) or not 0 <= null < rows):
        return f"null_label {null!r} is not one of the {rows} class embeddings"
    if extra["resolution_px"] != unet.config.sample_size:
        return f"resolution_px {extra['resolution_px']!r} is not the U-Net's sample_size {unet.config.sample_size}"
    scale = extra["guidance_scale"]
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        return f"guidance_scale {scale!r} is not a finite number"
    ground = extra["ground"]
    if not is_ground(ground):
        return f"ground {ground!r} is not three numbers from 0 to 255"
    return None
