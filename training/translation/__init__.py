"""A picture in another style: a U-Net learns it from the same thing in two styles, or from the styles alone.

    python -m training.translation --output_dir runs/translation               # pix2pix: pairs, 32 px, five styles
    python -m training.translation --preset cycle-32 --output_dir runs/cycle   # unpaired: there and back again
    python -m training.translation --pretrained_model_name_or_path pix2pix-32 --dataset_name my_styles \
        --concept_column name --output_dir runs/my-styles    # folders are styles, "name" says what a picture shows

Isola et al. 2017 (pix2pix): L1 to the true picture, and a discriminator of patches that sees what it was made of. Zhu
et al. 2017 (CycleGAN): nothing is known but the styles, so what is translated there and back should be what it was, and
what has the style already should stay; with one generator that is told the style, as in Choi et al. 2018 (StarGAN).

Letters: B batch, R side of the picture in pixels, K styles, P places of the discriminator's answer a side.
"""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from hub_models import translation as contract
from training.config import TrainConfig, parse, require_resolution
from training.data.counterparts import Counterparts, held_out_pairs
from training.data.files import DataError
from training.data.sources import Source
from training.drawn import clean_picture, picture_tensor
from training.optim import Player
from training.task import Card, Task, opened_pair, run
from training.translation.evaluation import evaluate_checkpoint, rms_distance, sheet_of, style_column
from training.worlds import some_of

__all__ = ["PRESETS", "evaluate_checkpoint", "main", "task_of"]

STEM = "translation"
FIXED = 256  # pairs, and pictures, that a validation looks at, at most
OWN = 0.1  # share of samples of pairs in which a picture is asked for in the style that it has


@dataclass(frozen=True)
class TranslationConfig(TrainConfig):
    """What is learned from, and what for."""

    paired: bool = True  # learn from the same thing in two styles, as pix2pix; else from the styles alone, as CycleGAN
    label_column: str | None = None  # column that holds the style; None = "style" of our emoji, "label" of other data
    concept_column: str = "name"  # column that says what a picture shows: pictures of different styles pair by it
    channels: tuple[int, ...] = (48, 64, 128, 128)  # of the U-Net at R, R/2, R/4, … px
    style_dim: int = 64  # numbers that say which style
    discriminator_channels: tuple[int, ...] = (48, 96)  # of its convolutions: two judge patches of 16 px
    adversarial_weight: float = 1.0  # of the discriminator's word in the generator's loss
    l1_weight: float = 100.0  # of the distance to the true picture; pairs alone have one
    cycle_weight: float = 0.0  # of the distance of what was translated there and back to what it was
    identity_weight: float = 0.0  # of the distance of a picture, asked for in its own style, to itself

    def __post_init__(self):
        super().__post_init__()
        for name in ("adversarial_weight", "l1_weight", "cycle_weight", "identity_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"--{name} must be a number from 0 on, got {getattr(self, name)}")
        if not self.paired and self.l1_weight:
            raise ValueError("--l1_weight is of the true picture, which --no-paired has none of: set it to 0")
        if self.resolution % (1 << len(self.channels) - 1):
            raise ValueError(f"--resolution {self.resolution} can't be halved once for each of --channels but one")


PIX2PIX_32 = TranslationConfig(
    output_dir="runs/translation", resolution=32, train_batch_size=32, learning_rate=4e-4, lr_warmup_steps=100,
    adam_beta1=0.5, adam_beta2=0.999, adam_weight_decay=0.0, max_grad_norm=100.0, ema_decay=0.999,
    max_train_steps=16_000, checkpointing_steps=250, validation_steps=1000,
)  # fmt: skip
CYCLE = {"paired": False, "l1_weight": 0.0, "cycle_weight": 2.0, "identity_weight": 0.5}  # from 10 and 5 on it copies
PRESETS = {
    "pix2pix-32": PIX2PIX_32,
    "cycle-32": dataclasses.replace(PIX2PIX_32, **CYCLE, max_train_steps=2000),
    "tiny": dataclasses.replace(
        PIX2PIX_32, **CYCLE, dataset_name="emoji-sample", resolution=16, channels=(8, 16, 16), style_dim=8,
        discriminator_channels=(8, 16), max_train_steps=2, train_batch_size=8, lr_warmup_steps=1, checkpointing_steps=1,
        validation_steps=2, logging_steps=1,
    ),
}  # fmt: skip


class StyledPictures:
    """Training samples {"picture": (3, R, R), "own": (), "real": (3, R, R), "style": ()}; see `training.order.Samples`.

    picture and its own style go in; real is one in the style asked for, turned and shifted alike. Paired: of the same
    concept, and now and then (OWN) the picture itself. Unpaired: any picture of another style.
    Raises DataError where nothing is there in two styles.
    """

    def __init__(self, source: Source, resolution_px: int, twins: dict[int, list[int]] | None):
        self.source, self.resolution_px, self.twins = source, resolution_px, twins
        self.rows = sorted(twins) if twins else list(range(len(source)))
        said = json.dumps([source.data_hash, sorted(twins.items()) if twins else None])
        self.data_hash = hashlib.sha256(said.encode()).hexdigest()
        self.others = {style: np.flatnonzero(source.labels != style) for style in np.unique(source.labels)}
        if len(self.others) < 2:
            raise DataError(
                f"{source.name} has pictures of one style alone, '{source.label_names[source.label(0)]}': two are "
                "needed at least. Name the column that holds the style with --label_column."
            )
        source.preload(resolution_px)

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        row = self.rows[index]
        others = self.twins[row] if self.twins else self.others[self.source.label(row)]
        other = int(others[int(torch.randint(len(others), (), generator=draw))])
        if self.twins and torch.rand((), generator=draw) < OWN:
            other = row
        first, second = (clean_picture(self.source.picture(at), self.resolution_px) for at in (row, other))
        picture, real = moved(torch.cat([first, second]), draw).chunk(2)
        return {"picture": picture, "own": self.source.label(row), "real": real, "style": self.source.label(other)}


def moved(x: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """x (C, R, R) mirrored in half of the draws, and shifted by up to R/16 on white: all channels alike."""
    side = x.shape[-1]
    reach = side // 16
    if torch.rand((), generator=draw) < 0.5:
        x = x.flip(-1)
    top, left = torch.randint(2 * reach + 1, (2,), generator=draw).tolist()
    return F.pad(x, [reach] * 4, value=1.0)[:, top : top + side, left : left + side].contiguous()


# --- the game --------------------------------------------------------------------------------------------------------


def off(answers: torch.Tensor, wanted: float) -> torch.Tensor:
    """The mean square by which a discriminator's answers (B, P, P) miss what is wanted: Mao et al. 2017, eq. 9."""
    return (answers.float() - wanted).square().mean()


def l1(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of pictures in [-1, 1], a scalar."""
    return (x.float() - y.float()).abs().mean()


def players_of(
    cfg: TranslationConfig, generator: contract.StyleUNet, discriminator: contract.PatchDiscriminator
) -> list[Player]:
    """The U-Net, which is what a run makes, and the discriminator; each plays against the other as it is."""

    def translate(model, batch):
        x, own, style = batch["picture"], batch["own"], batch["style"]
        made = model(x, style)
        terms = {"adversarial": off(discriminator(made, style, x), 1)}
        if cfg.l1_weight:
            terms["l1"] = l1(made, batch["real"])
        if cfg.cycle_weight:
            terms["cycle"] = l1(model(made, own), x)
        if cfg.identity_weight:
            terms["identity"] = l1(model(x, own), x)
        weighted = [getattr(cfg, f"{name}_weight") * term for name, term in terms.items()]
        return torch.stack(weighted).sum(), {name: term.item() for name, term in terms.items()}

    def tell(model, batch):
        x, style = batch["picture"], batch["style"]
        with torch.no_grad():
            made = generator(x, style).float()
        real, drawn = model(torch.cat([batch["real"], made]), style.repeat(2), x.repeat(2, 1, 1, 1)).float().chunk(2)
        apart = (real.mean((1, 2)) > drawn.mean((1, 2))).float().mean()
        return (off(real, 1) + off(drawn, 0)) / 2, {"told_apart": apart.item()}

    return [Player(generator, translate), Player(discriminator, tell, name="discriminator")]


# --- what is looked at -----------------------------------------------------------------------------------------------


class Looks:
    """What a validation looks at: held-out pictures, and pairs of them where there are any."""

    def __init__(self, held_out: Source, known: Counterparts | None, concept_column: str, resolution_px: int):
        self.styles = torch.from_numpy(held_out.labels)
        self.x = picture_tensor(held_out, resolution_px)
        self.own = Counterparts(held_out, concept_column) if known else None
        found = held_out_pairs(known, self.own) if known and self.own else ()
        pairs = [(row, truth) for part, row, truth in found if part is held_out]
        kept = np.random.default_rng(0).permutation(len(pairs))[:FIXED]
        self.pairs = torch.tensor([pairs[at] for at in kept]).view(-1, 2)

    def scores(self, model: contract.Translator) -> dict[str, float]:
        """Numbers of a U-Net while it is trained.

        identity_l1, cycle_l1: mean absolute distance in [-1, 1] pixels of a picture to itself asked for in its own
        style, and to what comes back from the next style. Of pairs, rms_distance in [0, 1] pixels to the true picture,
        and nearer_than_input, the share in which that is less than what the input is away.
        """
        x, own = self.x[:FIXED], self.styles[:FIXED].tolist()
        there = [(style + 1) % len(model.style_names) for style in own]
        found = {
            "identity_l1": l1(model.translate_tensor(x, own).cpu(), x).item(),
            "cycle_l1": l1(model.translate_tensor(model.translate_tensor(x, there), own).cpu(), x).item(),
        }
        if len(self.pairs):
            asked, truths = self.x[self.pairs[:, 0]], self.x[self.pairs[:, 1]]
            made = model.translate_tensor(asked, self.styles[self.pairs[:, 1]].tolist()).cpu()
            away, before = rms_distance(made, truths), rms_distance(asked, truths)
            found |= {"rms_distance": float(away.mean()), "nearer_than_input": float((away < before).mean())}
        return found


def task_of(cfg: TranslationConfig) -> Task:
    """The experiment of a config."""
    train, held_out = opened_pair(cfg, label_column=style_column(cfg.dataset_name, cfg.label_column))
    known = Counterparts(train, cfg.concept_column) if cfg.paired else None
    samples = StyledPictures(train, cfg.resolution, known.twins() if known else None)
    torch.manual_seed(cfg.seed)
    generator, discriminator = start_from(cfg, list(train.label_names))
    looks = Looks(held_out, known, cfg.concept_column, cfg.resolution)

    return Task(
        stem=STEM, source=train, players=players_of(cfg, generator, discriminator), samples=samples,
        served=lambda model: contract.Translator(model, discriminator), evaluate=looks.scores,
        draw=lambda served: sheet_of(served, held_out, looks.own),
        save=contract.save_folder, card=lambda served: card_of(served, cfg, train), seen=lambda: some_of(train),
    )  # fmt: skip


def start_from(
    cfg: TranslationConfig, style_names: list[str]
) -> tuple[contract.StyleUNet, contract.PatchDiscriminator]:
    """Both players, new or of a checkpoint; what of that has to be new it says."""
    fresh = contract.PatchDiscriminator(list(cfg.discriminator_channels), len(style_names), cfg.paired)
    if not cfg.pretrained_model_name_or_path:
        return contract.StyleUNet(list(cfg.channels), cfg.style_dim, cfg.resolution, style_names), fresh
    base = contract.load(cfg.base, device="cpu")
    require_resolution(cfg, base.resolution_px, "translates")
    generator, discriminator = base.model, base.discriminator
    if base.style_names != style_names:
        print(f"styles differ from {cfg.base}: a new embedding for {len(style_names)} styles")
        generator = restyled(generator, "embedding.", style_names=style_names)
        discriminator = discriminator and restyled(discriminator, "head.", num_styles=len(style_names))
    if discriminator is None or discriminator.conditional != cfg.paired:
        print(f"{cfg.base} has no discriminator of {'pairs' if cfg.paired else 'styles alone'}: a new one")
        discriminator = fresh
    for player in (generator, discriminator):
        player.requires_grad_(True).train()
    return generator, discriminator


def restyled(module, part: str, **styles):
    """A U-Net or discriminator with the weights of this one, but for the part that is of the styles."""
    made = type(module)(**module._hub_mixin_config | styles)
    kept = {name: value for name, value in module.state_dict().items() if not name.startswith(part)}
    made.load_state_dict(kept, strict=False)
    return made


def card_of(served: contract.Translator, cfg: TranslationConfig, train: Source) -> Card:
    """What the card says of a model of this config."""
    side, names = cfg.resolution, served.style_names
    kind, how = ("pix2pix", "from the same things in two styles") if cfg.paired else ("cycle", "from the styles alone")
    return Card(
        name=f"{kind}-{side}",
        title=f"{'pix2pix' if cfg.paired else 'CycleGAN'}, {side} px, {len(names)} styles",
        summary=f"A U-Net that redraws a {side} × {side} picture in the style asked for, trained {how}; its PatchGAN "
        f"lies beside it. Training data: {train.facts.title}.",
        library_name="pytorch",
        pipeline_tag="image-to-image",
        tags=["pytorch", "image-to-image", "style-transfer", "model_hub_mixin", "pytorch_model_hub_mixin"],
        parameters=served.parameters,
        usage="from PIL import Image\n\nfrom hub_models import translation  # of Vitrail: no library has this "
        'architecture\n\nmodel = translation.load("org/name")\n'
        f'[picture] = model.translate([Image.open("picture.png")], [{names[0]!r}])\n\n'
        "# The bare module, as huggingface_hub.PyTorchModelHubMixin saved it:\n"
        'unet = translation.StyleUNet.from_pretrained("org/name")',
        limits=[
            f"It draws {side} × {side} pixels. What a style adds that the picture doesn't show, it guesses.",
            "No library has its architecture: config.json and safetensors are read by hub_models/translation.py of "
            "Vitrail.",
        ],
    )


def main(argv: list[str] | None = None) -> None:
    cfg = parse(PRESETS, argv, description=__doc__)
    run(task_of(cfg), cfg, argv)
