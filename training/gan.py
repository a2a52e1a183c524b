"""Generative adversarial networks by class: a generator learns to draw what a discriminator takes for real.

    python -m training.gan --output_dir runs/gan                          # DCGAN, 32 px, 12 classes
    python -m training.gan --preset style-32 --output_dir runs/gan-style  # StyleGAN2's generator
    python -m training.gan --loss minimax --gradient_penalty 0 --output_dir runs/gan-2014
    python -m training.gan --pretrained_model_name_or_path dcgan-32 --dataset_name my_pictures --output_dir runs/my-gan

Goodfellow et al. 2014 (minimax and non-saturating loss), Jolicoeur-Martineau 2018 (relativistic), Mescheder et al. 2018
(R1 and R2), Huang et al. 2024 (R3GAN: the latter two together are enough), Zhao et al. 2020 (augmentation).

Letters: B batch, R side of the picture in pixels, Z and N numbers that a picture is drawn from (see hub_models/gan.py).
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from hub_models import gan as contract
from hub_models.pictures import to_uint8
from training import coverage, figures, metrics
from training.config import TrainConfig, parse, require_resolution
from training.data.sources import Source
from training.drawn import AS_LEARNED, LabelledPictures, clean_picture, exam_of, measure, picture_tensor
from training.optim import Player
from training.order import draw_seed
from training.task import Card, Results, Task, opened_pair, run

STEM = "gan"
Loss = Literal["relativistic", "non-saturating", "minimax"]
FIXED = 512  # pictures that a validation draws, at most


@dataclass(frozen=True)
class GANConfig(TrainConfig):
    """One pair of players."""

    kind: Literal["dcgan", "style"] = "dcgan"  # the generator's architecture: see hub_models.gan.Generator
    channels: tuple[int, ...] = (192, 128, 96, 48)  # of the generator at 4 px, 8 px, … resolution
    discriminator_channels: tuple[int, ...] = (160, 128, 64, 32)  # the same of the discriminator
    z_dim: int = 64  # numbers that say which picture of a class
    label_column: str | None = None  # column that holds the class; None = "label"
    loss: Loss = "relativistic"
    gradient_penalty: float = 0.5  # γ: R1 on real and R2 on drawn pictures, each weighted by γ/2; 0 for none
    augment: bool = True  # the discriminator sees all pictures shifted and recoloured, as few pictures need it

    def __post_init__(self):
        super().__post_init__()
        for name in ("channels", "discriminator_channels"):
            if contract.SMALLEST << len(getattr(self, name)) - 1 != self.resolution:
                raise ValueError(
                    f"--{name} has {len(getattr(self, name))} levels from {contract.SMALLEST} px on, which don't end "
                    f"at --resolution {self.resolution}: give one number for each doubling, and one more"
                )
        if not 0 <= self.gradient_penalty < float("inf"):
            raise ValueError(f"--gradient_penalty must be a number from 0 on, got {self.gradient_penalty}")


DCGAN_32 = GANConfig(
    output_dir="runs/gan", resolution=32, train_batch_size=32, learning_rate=4e-4, lr_warmup_steps=100, adam_beta1=0.0,
    adam_weight_decay=0.0, max_grad_norm=10.0, ema_decay=0.999, max_train_steps=16_000, checkpointing_steps=250,
    validation_steps=1000,
)  # fmt: skip
PRESETS = {
    "dcgan-32": DCGAN_32,
    "style-32": dataclasses.replace(DCGAN_32, kind="style", channels=(128, 96, 64, 32)),
    "tiny": dataclasses.replace(
        DCGAN_32, kind="style", dataset_name="emoji-sample", resolution=16, channels=(16, 16, 8),
        discriminator_channels=(16, 16, 8), z_dim=8, max_train_steps=2, train_batch_size=8, lr_warmup_steps=1,
        checkpointing_steps=1, validation_steps=2, logging_steps=1,
    ),
}  # fmt: skip


# --- the game --------------------------------------------------------------------------------------------------------


def discriminator_loss(loss: Loss, real: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """What the discriminator brings down, a scalar, by its logits (B,) of real and of drawn pictures.

    "minimax", "non-saturating": -E log D(x) - E log(1 - D(G(z))), of Goodfellow et al. 2014, eq. 1, whose optimum is
    log 4 - 2 JSD(real, drawn). "relativistic": -E log σ(D(x) - D(G(z))), Huang et al. 2024, eq. 2, row i against row i.
    """
    if loss == "relativistic":
        return F.softplus(drawn - real).mean()
    return F.softplus(-real).mean() + F.softplus(drawn).mean()


def generator_loss(loss: Loss, real: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """What the generator brings down, a scalar, by the discriminator's logits (B,).

    "minimax": E log(1 - D(G(z))), which has next to no gradient while the discriminator is sure; "non-saturating":
    -E log D(G(z)); "relativistic": -E log σ(D(G(z)) - D(x)).
    """
    if loss == "relativistic":
        return F.softplus(real - drawn).mean()
    return -F.softplus(drawn).mean() if loss == "minimax" else F.softplus(-drawn).mean()


def zero_centred_penalty(logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """|∇_x D|² of each picture (B,): R1 of real ones, R2 of drawn ones (Mescheder et al. 2018, eq. 9 and 10).

    logits (B,) came of x (B, 3, R, R), each of its own row alone. The gradient keeps its graph, to be gone through
    again by the backward pass.
    """
    [gradient] = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient.float().square().sum((1, 2, 3))


def augmented(x: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, R, R) shifted by up to R/8 on white, then brighter or darker, greyer or not, flatter or not.

    By global draws, for each picture its own; differentiable. Zhao et al. 2020, "Differentiable augmentation", §4.1.
    """
    side = x.shape[-1]
    reach = side // 8
    wide = F.pad(x, [reach] * 4, value=1.0)
    places = torch.randint(2 * reach + 1, (len(x), 2)).tolist()
    x = torch.stack(
        [one[:, top : top + side, left : left + side] for one, (top, left) in zip(wide, places, strict=True)]
    )
    brightness, saturation, contrast = torch.rand(3, len(x), 1, 1, 1, device=x.device)
    x = x + brightness - 0.5
    grey = x.mean(1, keepdim=True)
    x = torch.lerp(grey, x, 2 * saturation)
    return torch.lerp(x.mean((1, 2, 3), keepdim=True), x, contrast + 0.5)


def players_of(cfg: GANConfig, generator: contract.Generator, discriminator: contract.Discriminator) -> list[Player]:
    """The generator, which is what a run makes, and the discriminator; each plays against the other as it is."""

    def seen(x: torch.Tensor) -> torch.Tensor:
        return augmented(x) if cfg.augment else x

    def drawn_by(model, batch) -> torch.Tensor:
        z, noise = batch["noise"].split([generator.z_dim, generator.noise_dim], 1)
        return model(z, noise, batch["label"]).float()  # (B, 3, R, R)

    def fool(model, batch):
        drawn = discriminator(seen(drawn_by(model, batch)), batch["label"]).float()  # (B,)
        real = discriminator(seen(batch["picture"]), batch["label"]).float() if cfg.loss == "relativistic" else drawn
        return generator_loss(cfg.loss, real, drawn), {}

    def tell(model, batch):
        with torch.no_grad():
            x = seen(torch.cat([batch["picture"], drawn_by(generator, batch)]))  # (2 B, 3, R, R)
        logits = model(x.requires_grad_(), batch["label"].repeat(2)).float()  # (2 B,)
        real, drawn = logits.chunk(2)
        loss = discriminator_loss(cfg.loss, real, drawn)
        numbers = {"told_apart": (real > drawn).float().mean().item()}
        if cfg.gradient_penalty:
            r1, r2 = (each.mean() for each in zero_centred_penalty(logits, x).chunk(2))
            loss = loss + cfg.gradient_penalty / 2 * (r1 + r2)
            numbers |= {"r1": r1.item(), "r2": r2.item()}
        return loss, numbers

    return [Player(generator, fool), Player(discriminator, tell, name="discriminator")]


# --- what is looked at -----------------------------------------------------------------------------------------------


def paint(
    model: contract.GAN, labels: Sequence, seed: int, *, truncation: float = 1.0, batch_size: int = 64
) -> torch.Tensor:
    """One picture per label, (N, 3, R, R) in [-1, 1]; picture i has seed f(seed, i)."""
    made = []
    for at in range(0, len(labels), batch_size):
        part = labels[at : at + batch_size]
        seeds = [draw_seed("draw", seed, at + i) for i in range(len(part))]
        made.append(model.paint(model.latents(seeds), part, truncation))
    return torch.cat(made)


class Looks:
    """What a validation compares the same drawn pictures with: real ones held out, and as many training ones."""

    def __init__(self, train: Source, held_out: Source, resolution_px: int):
        rows = np.random.default_rng(0).permutation(len(train))[:FIXED]
        train.preload(resolution_px)
        self.train = torch.stack([clean_picture(train.picture(row), resolution_px) for row in rows])
        self.train_labels = train.labels[rows]
        self.real = picture_tensor(held_out, resolution_px, FIXED)
        self.labels = held_out.labels[: len(self.real)]
        self.features = metrics.hog_colour_features(to_uint8(self.real))

    def scores(self, model: contract.GAN) -> dict[str, float]:
        """Numbers of a generator and its discriminator while they are trained.

        told_apart, told_apart_train: the share of pairs, a real picture and a drawn one of its class, in which the
        discriminator finds the real one more real; 0.5 is a guess. Of held-out and of training pictures: where they
        part, it knows its training pictures by heart. kid_x1000, precision, recall: to held-out pictures in features
        without learning, the judges being kept for what is finished (hog_colour_features; values compare within a run).
        """
        drawn = paint(model, self.labels.tolist(), 0)
        also = paint(model, self.train_labels.tolist(), 1)
        found = {
            "told_apart": told_apart(model, self.real, drawn, self.labels),
            "told_apart_train": told_apart(model, self.train, also, self.train_labels),
        }
        if len(drawn) > 3:
            features = metrics.hog_colour_features(to_uint8(drawn))
            found["kid_x1000"] = 1000 * metrics.kernel_inception_distance(features, self.features, draws=10)[0]
            found["precision"], found["recall"] = coverage.precision_and_recall(features, self.features)
        return found


@torch.no_grad()
def told_apart(model: contract.GAN, real: torch.Tensor, drawn: torch.Tensor, labels: np.ndarray) -> float:
    """The share of rows in which real has the higher logit; real, drawn (N, 3, R, R), labels (N,) of both."""
    assert model.discriminator is not None
    which, right = torch.from_numpy(labels), 0
    for at in range(0, len(real), 64):
        parts = (x[at : at + 64].to(model.device) for x in (real, drawn))
        mine, theirs = (model.discriminator(x, which[at : at + 64].to(model.device)) for x in parts)
        right += int((mine > theirs).sum())
    return right / len(real)


def task_of(cfg: GANConfig) -> Task:
    """The experiment of a config."""
    train, held_out = opened_pair(cfg, label_column=cfg.label_column or "label")
    torch.manual_seed(cfg.seed)
    generator, discriminator = start_from(cfg, list(train.label_names))
    samples = LabelledPictures(train, cfg.resolution, generator.z_dim + generator.noise_dim)
    looks = Looks(train, held_out, cfg.resolution)

    def drawn(served):
        labels = [row for row in range(len(served.label_names)) for _ in range(4)]
        return figures.sheet(to_uint8(paint(served, labels, 0)), columns=8, zoom=2)

    return Task(
        stem=STEM, source=train, players=players_of(cfg, generator, discriminator), samples=samples,
        served=lambda model: contract.GAN(model, discriminator), evaluate=looks.scores, draw=drawn,
        save=contract.save_folder, card=lambda served: card_of(served, cfg, train),
    )  # fmt: skip


def start_from(cfg: GANConfig, label_names: list[str]) -> tuple[contract.Generator, contract.Discriminator]:
    """Both players, new or of a checkpoint; what of that has to be new it says."""
    fresh = contract.Discriminator(list(cfg.discriminator_channels), len(label_names))
    if not cfg.pretrained_model_name_or_path:
        return contract.Generator(cfg.kind, list(cfg.channels), cfg.z_dim, label_names), fresh
    base = contract.load(cfg.base, device="cpu")
    require_resolution(cfg, base.resolution_px, "draws")
    generator, discriminator = base.model, base.discriminator
    if base.label_names != label_names:
        print(f"labels differ from {cfg.base}: new embeddings for {len(label_names)} labels")
        generator = relabelled(generator, label_names=label_names)
        discriminator = discriminator and relabelled(discriminator, num_labels=len(label_names))
    if discriminator is None:
        print(f"{cfg.base} has no discriminator: a new one")
    players = generator, discriminator or fresh
    for player in players:
        player.requires_grad_(True).train()
    return players


def relabelled(module, **labels):
    """A generator or discriminator with the weights of this one, but for the embedding of other labels."""
    made = type(module)(**module._hub_mixin_config | labels)
    kept = {name: value for name, value in module.state_dict().items() if not name.startswith("embedding.")}
    made.load_state_dict(kept, strict=False)
    return made


def card_of(served: contract.GAN, cfg: GANConfig, train: Source) -> Card:
    """What the card says of a model of this config."""
    side, kind = cfg.resolution, {"dcgan": "DCGAN", "style": "StyleGAN2 generator"}[cfg.kind]
    return Card(
        name=f"{cfg.kind}-{side}",
        title=f"{kind}, {side} px, {len(served.label_names)} classes",
        summary=f"A generative adversarial network that draws {side} × {side} pictures by class in one pass, trained "
        f"with the {cfg.loss} loss; its discriminator lies beside it. Training data: {train.facts.title}.",
        library_name="pytorch",
        pipeline_tag="unconditional-image-generation",
        tags=["pytorch", "gan", "unconditional-image-generation", "model_hub_mixin", "pytorch_model_hub_mixin"],
        parameters=served.parameters,
        usage="from hub_models import gan  # of Vitrail: no library has this architecture\n\n"
        'model = gan.load("org/name")\n'
        f"[picture] = model.draw([{served.label_names[0]!r}], seeds=[0])\n\n"
        "# The bare modules, as huggingface_hub.PyTorchModelHubMixin saved them:\n"
        'generator = gan.Generator.from_pretrained("org/name")',
        limits=[
            f"It draws {side} × {side} pixels, many of them only roughly like the class asked for.",
            "No library has its architecture: config.json and safetensors are read by hub_models/gan.py of Vitrail.",
        ],
    )


def evaluate_checkpoint(
    name: str, dataset_name: str, *, columns: dict | None = None, judge: str | None = None, batch_size: int = 64
) -> Results:
    """What `drawn.measure` says of a saved model as it is served, and how well its discriminator tells.

    untruncated/…: the same of all that it has learned (ψ = 1). told_apart: see `told_apart`, of that and of held-out
    pictures.
    columns, judge: see `drawn.exam_of`.
    """
    model = contract.load(name)
    exam = exam_of(name, dataset_name, model.label_names, model.resolution_px, columns, judge)
    results = exam.results()

    def drawn(labels: Sequence, seed: int, truncation: float = contract.TRUNCATION) -> np.ndarray:
        return to_uint8(paint(model, labels, seed, truncation=truncation, batch_size=batch_size))

    whole, every = exam.results(), functools.partial(drawn, truncation=1.0)
    measure(whole, exam, every(exam.asked, 1), every)
    shown = measure(results, exam, drawn(exam.asked, 1), drawn)
    results.metrics |= {f"untruncated/{name}": whole.metrics[name] for name in AS_LEARNED if name in whole.metrics}
    if model.discriminator is not None:
        real = torch.cat([picture_tensor(part, model.resolution_px) for part in exam.held_out])
        made = paint(model, exam.labels, 3, batch_size=batch_size)
        results.metrics["told_apart"] = told_apart(model, real, made, np.array(exam.labels))
    results.figures["samples"] = figures.sheet(shown[: 12 * max(8, len(model.label_names))], 12, zoom=2)
    return results


def main(argv: list[str] | None = None) -> None:
    cfg = parse(PRESETS, argv, description=__doc__)
    run(task_of(cfg), cfg, argv)


if __name__ == "__main__":
    main()
