"""A hierarchical VAE, by class: two levels of latents on one ladder, trained by the evidence lower bound.

    python -m training.ladder --output_dir runs/ladder                    # 32 px, 12 classes
    python -m training.ladder --kl_warmup_steps 0 --output_dir runs/cold  # does the upper level stay alive?
    python -m training.ladder --pretrained_model_name_or_path emoji-32 --dataset_name my_pictures --output_dir runs/mine

Sønderby et al. 2016 (the ladder, and warm-up: the weight of the KL rises from 0 to 1), Rybkin et al. 2021 (pixels'
deviation as large as the errors are). kl_top and kl_lower, in nats per picture, tell of a level that is dead: near 0.

Letters: B batch, R side of the picture in pixels, K labels; N numbers that draw both levels (see hub_models/ladder.py).
"""

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from hub_models import ladder as contract
from hub_models.pictures import to_uint8
from training import figures, metrics
from training.config import TrainConfig, parse, require_resolution
from training.data.facts import facts_of
from training.data.sources import Source
from training.drawn import LabelledPictures, clean_picture, exam_of, measure, picture_tensor
from training.likelihood import bits_of_pixels_apart, bits_per_dim, gaussian_surprise
from training.optim import Player
from training.order import draw_seed
from training.task import Card, Results, Task, opened_pair, run

STEM = "ladder"
FIXED = 512  # pictures that a validation looks at, and the export measures its deviation on, at most


@dataclass(frozen=True)
class LadderConfig(TrainConfig):
    """One ladder."""

    channels: tuple[int, ...] = (32, 48, 64, 96)  # at R px, R/2 px, …; z₂ is read from the last, z₁ the one before
    top_dim: int = 64  # numbers of z₂, the vector at the top
    lower_channels: int = 1  # channels of z₁, the map below it
    label_column: str | None = None  # column that holds the class; None = "label"
    kl_warmup_steps: int = 1000  # steps in which the KL's weight rises from 0 to 1; 0 = it has its full weight at once

    def __post_init__(self):
        super().__post_init__()
        if self.top_dim < 1 or self.lower_channels < 1 or self.kl_warmup_steps < 0:
            raise ValueError("--top_dim and --lower_channels must be at least 1, --kl_warmup_steps not negative")
        try:
            contract.check(self.resolution, list(self.channels), [""], None)
        except ValueError as error:
            raise ValueError(f"--channels {self.channels} with --resolution {self.resolution}: {error}") from None


EMOJI_32 = LadderConfig(
    output_dir="runs/ladder", resolution=32, train_batch_size=32, learning_rate=1e-3, lr_warmup_steps=200,
    ema_decay=0.999, max_train_steps=8000, checkpointing_steps=500, validation_steps=1000,
)  # fmt: skip
PRESETS = {
    "emoji-32": EMOJI_32,
    "tiny": dataclasses.replace(
        EMOJI_32, dataset_name="emoji-sample", resolution=16, channels=(8, 16, 16), top_dim=4, lower_channels=2,
        kl_warmup_steps=4, max_train_steps=2, train_batch_size=8, lr_warmup_steps=1, checkpointing_steps=1,
        validation_steps=2, logging_steps=1,
    ),
}  # fmt: skip


class WarmedUp(torch.nn.Module):
    """The network beside the count of what it has been trained on, which decides the KL's weight.

    The count is a buffer: a checkpoint holds it, and a skipped step leaves it as it was. No export knows of it.
    """

    passes: torch.Tensor

    def __init__(self, ladder: contract.LadderVAE, warmup_passes: int):
        super().__init__()
        self.ladder, self.warmup_passes = ladder, warmup_passes
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
        """The pixels (B, 3, R, R), the KL of z₂ and of z₁ in nats (B,), and the weight that both have in this pass."""
        self.passes += 1
        weight = min(1.0, int(self.passes) / self.warmup_passes) if self.warmup_passes else 1.0
        passed = self.ladder(batch["picture"], batch["noise"])
        return passed.pixels, *divergences(self.ladder, passed, batch["label"]), weight


def divergences(ladder: contract.LadderVAE, passed: contract.Passed, label: torch.Tensor) -> tuple[Any, Any]:
    """KL(q(z₂|x) ‖ p(z₂|y)) and, of the z₂ that was drawn, KL(q(z₁|x, z₂) ‖ p(z₁|z₂)), in nats, (B,) ×2."""
    top = contract.divergence(passed.top, ladder.class_prior(label))
    return top, contract.divergence(passed.lower, passed.lower_prior)


def negative_bound(pictures, pixels, kl_top, kl_lower, weight: float) -> tuple[torch.Tensor, dict]:
    """The loss, in nats per picture value, and its parts: the negative bound on log p(x | y) where weight is 1."""
    surprise, mse = gaussian_surprise(pictures, pixels, None)
    values = pictures[0].numel()
    kl_top, kl_lower = kl_top.mean(), kl_lower.mean()
    loss = surprise + weight * (kl_top + kl_lower) / values
    bits = bits_per_dim((surprise + (kl_top + kl_lower) / values).detach())
    parts = {"mse": mse, "kl_top": kl_top, "kl_lower": kl_lower}
    return loss, {name: part.detach() for name, part in parts.items()} | {"kl_weight": weight, "bits_per_dim": bits}


# --- what is looked at -----------------------------------------------------------------------------------------------


def draw(model: contract.Ladder, labels: Sequence[int], seed: int, *, batch_size: int = 64) -> np.ndarray:
    """One picture per label, uint8 (N, R, R, 3); picture i has seed f(seed, i)."""
    seeds = [draw_seed("draw", seed, at) for at in range(len(labels))]
    parts = [slice(at, at + batch_size) for at in range(0, len(labels), batch_size)]
    return np.concatenate([to_uint8(model.sample(labels[part], seeds[part])) for part in parts])


@torch.no_grad()
def bound_of(model: contract.Ladder, pictures: torch.Tensor, labels: np.ndarray) -> tuple[dict[str, float], float]:
    """What pictures (N, 3, R, R) with labels (N,) cost, and the root mean squared error of their pixels.

    bits_per_dim: of the negative bound on log p(x), so with the log K nats of the label, and pixels as wide as the
    model's observation_std, or where it has none as these errors are. kl_top, kl_lower: in nats per picture. By one
    draw of the latents for each picture.
    """
    generator, squares, kls = torch.Generator().manual_seed(0), [], []
    for x, label in zip(pictures.split(64), torch.from_numpy(labels).split(64), strict=True):
        x, noise = x.to(model.device), torch.randn(len(x), model.model.noise_dim, generator=generator)
        passed = model.model(x, noise.to(x))
        squares.append((passed.pixels.float() - x).square().mean((1, 2, 3)).cpu())
        kls.append(torch.stack(divergences(model.model, passed, label.to(model.device))).cpu())
    top, lower = torch.cat(kls, 1).mean(1).tolist()
    mse = float(torch.cat(squares).mean())
    std = model.model.observation_std or max(mse, 1e-6) ** 0.5
    surprise = 0.5 * (mse / std**2 + math.log(2 * math.pi * std**2))
    nats = surprise + (top + lower + math.log(len(model.label_names))) / pictures[0].numel()
    return {"bits_per_dim": bits_per_dim(nats), "kl_top": top, "kl_lower": lower}, mse**0.5


def decibels(model: contract.Ladder, pictures: torch.Tensor, *, top_alone: bool = False) -> float:
    """The mean PSNR of reconstructions of pictures (N, 3, R, R)."""
    parts = [
        to_uint8(model.reconstruct_tensor(x.to(model.device), top_alone=top_alone)) for x in pictures.split(64)
    ]  # fmt: skip
    return float(np.minimum(metrics.psnr(np.concatenate(parts), to_uint8(pictures)), 100.0).mean())


def sheet(model: contract.Ladder, pictures: torch.Tensor) -> np.ndarray:
    """Rows of as many pictures: (N, 3, R, R) as they are, come back, and three times with the lower level anew."""
    rows = [pictures, model.reconstruct_tensor(pictures.to(model.device)).cpu()]
    each = [model.levels(picture).top_alone.cpu() for picture in model.to_pil(pictures)]  # (3, 3, R, R) each
    return to_uint8(torch.cat([*rows, *torch.stack(each, 1)]))


def task_of(cfg: LadderConfig) -> Task:
    """The experiment of a config."""
    train, held_out = opened_pair(cfg, label_column=cfg.label_column or "label")
    names = list(train.label_names)
    torch.manual_seed(cfg.seed)
    ladder = start_from(cfg, names)
    player = WarmedUp(ladder, cfg.kl_warmup_steps * cfg.gradient_accumulation_steps)
    samples = LabelledPictures(train, cfg.resolution, ladder.noise_dim)
    shown = picture_tensor(held_out, cfg.resolution, FIXED)
    labels = held_out.labels[: len(shown)]

    def loss(model, batch):
        return negative_bound(batch["picture"], *model(batch))

    def evaluate(served):
        return bound_of(served, shown, labels)[0] | {"psnr": decibels(served, shown)}

    def drawn(served):
        own = draw(served, [row for row in range(len(names)) for _ in range(4)], 0)
        return figures.sheet(np.concatenate([own, sheet(served, shown[:8])]), columns=8, zoom=2)

    def measured(served):
        some = np.linspace(0, len(train) - 1, min(FIXED, len(train))).astype(int)
        pictures = torch.stack([clean_picture(train.picture(row), cfg.resolution) for row in some])
        plain = contract.Ladder(rebuilt(served.model, observation_std=None))
        _, std = bound_of(plain, pictures, train.labels[some])
        return contract.Ladder(rebuilt(served.model, observation_std=std))

    return Task(
        stem=STEM, source=train, players=[Player(player, loss)], samples=samples,
        served=lambda module: contract.Ladder(module.ladder), evaluate=evaluate, draw=drawn, finished=measured,
        save=contract.save_folder, card=lambda served: card_of(served, cfg, train),
    )  # fmt: skip


def start_from(cfg: LadderConfig, label_names: list[str]) -> contract.LadderVAE:
    """The network to train: a fresh one, or a checkpoint's, its class priors new where labels differ (it says so)."""
    if not cfg.pretrained_model_name_or_path:
        return contract.LadderVAE(
            cfg.resolution, list(cfg.channels), cfg.top_dim, cfg.lower_channels, label_names
        )  # fmt: skip
    model = contract.load(cfg.base, device="cpu")
    require_resolution(cfg, model.resolution_px, "draws")
    ladder = model.model
    if model.label_names != label_names:
        print(f"labels differ from {cfg.base}: new priors for {len(label_names)} labels")
        ladder = rebuilt(ladder, label_names=label_names)
    return ladder.requires_grad_(True).train()


def rebuilt(ladder: contract.LadderVAE, **changed) -> contract.LadderVAE:
    """A network with the weights of this one and other arguments; of other labels the priors are new."""
    made = contract.LadderVAE(**cast(dict, ladder._hub_mixin_config) | changed)
    kept = copy.deepcopy(ladder.state_dict())
    if made.label_names != ladder.label_names:
        del kept["prior.weight"]
    made.load_state_dict(kept, strict=False)
    return made.to(ladder.prior.weight.device).train(ladder.training)


def card_of(served: contract.Ladder, cfg: LadderConfig, train: Source) -> Card:
    """What the card says of a model of this config."""
    side, facts, (lower, cells, _) = cfg.resolution, train.facts, served.model.lower_shape
    return Card(
        name=f"{facts.ours}-{side}" if facts.ours else STEM,
        title=f"Hierarchical VAE, {side} px, {len(served.label_names)} classes",
        summary=f"A ladder variational autoencoder with two levels of latents: {served.model.top_shape[0]} numbers for "
        f"a picture of {side} × {side} pixels, and {cells} × {cells} × {lower} below them, drawn given the first. It "
        f"draws by class, brings pictures back, and shows what each level holds. Training data: {facts.title}. No "
        "library has a class for it: config.json and safetensors are those of huggingface_hub's PyTorchModelHubMixin, "
        "and hub_models/ladder.py has the network.",
        library_name="pytorch",
        pipeline_tag="unconditional-image-generation",
        tags=["pytorch", "variational-autoencoder", "hierarchical-vae", "model_hub_mixin", "pytorch_model_hub_mixin"],
        parameters=served.parameters,
        usage="from hub_models import ladder  # of Vitrail: no library has this architecture\n\n"
        'model = ladder.load("org/name")  # the network alone: ladder.LadderVAE.from_pretrained("org/name")\n'
        f"[picture] = model.to_pil(model.sample([{served.label_names[0]!r}], seeds=[0]))\n"
        "levels = model.levels(picture)  # as it comes back, and with the lower level drawn anew",
        limits=[f"Pictures come back and are drawn blurred, {side} × {side} pixels, many only roughly of their class."],
    )


def evaluate_checkpoint(
    name: str, dataset_name: str, *, columns: dict | None = None, judge: str | None = None, batch_size: int = 64
) -> Results:
    """What `drawn.measure` says of a saved model, what held-out pictures cost it, and how they come back.

    Of each set bits_per_dim, kl_top and kl_lower: see `bound_of`; bits_per_dim_apart: of a Gaussian for each pixel
    apart, fitted on the set itself. psnr (dB) of reconstructions, and psnr_top_alone, when the lower level is its
    prior's mean. columns, judge: see `drawn.exam_of`.
    """
    model = contract.load(name)
    exam = exam_of(name, dataset_name, model.label_names, model.resolution_px, columns, judge)
    results = exam.results()

    def drawn(labels: Sequence[int], seed: int) -> np.ndarray:
        return draw(model, labels, seed, batch_size=batch_size)

    pictures = measure(results, exam, drawn(exam.asked, 1), drawn)
    splits = [split for split in facts_of(dataset_name).evaluation_sets if split != "unseen_style"]
    for split, source in zip(splits, exam.held_out, strict=True):
        x = picture_tensor(source, model.resolution_px)
        costs, _ = bound_of(model, x, source.labels)
        of_top = {f"psnr{end}": decibels(model, x, top_alone=bool(end)) for end in ("", "_top_alone")}
        apart = {"bits_per_dim_apart": bits_of_pixels_apart(to_uint8(x))}
        results.note(split, costs | apart | of_top | {"pictures": len(x)})
        if exam.train.facts.show_pictures:
            results.figures["levels"] = figures.sheet(sheet(model, x[:10]), columns=min(10, len(x)), zoom=2)
    results.figures["samples"] = figures.sheet(pictures[: 12 * max(8, len(model.label_names))], 12, zoom=2)
    return results


def main(argv: list[str] | None = None) -> None:
    cfg = parse(PRESETS, argv, description=__doc__)
    run(task_of(cfg), cfg, argv)


if __name__ == "__main__":
    main()
