"""Image classifiers: any timm model, from scratch or fine-tuned.

    python -m training.classifier --preset swin --output_dir runs/swin     # Swin, window 4, 64 px, from scratch
    python -m training.classifier --preset vit --output_dir runs/vit       # ViT, patch 8, 64 px, from scratch
    python -m training.classifier --preset tower --output_dir runs/tower   # Swin that begins as that of clip/emoji
    python -m training.classifier --preset noised --output_dir runs/noised # ViT of noisy pictures, 32 px: guides ddpm
    python -m training.classifier --preset finetune --dataset_name my_pictures --output_dir runs/my-classifier \
        --pretrained_model_name_or_path timm/vit_small_patch16_224.augreg_in21k_ft_in1k --resolution 224
                                                                               # somebody's class folders

Cost and scores of the shipped weights stand in their cards (hub_models/weights/classifier/).

Letters: B batch, R side of the picture in pixels, K classes.
"""

import contextlib
import dataclasses
import difflib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision.transforms.functional as F
from timm.data import Mixup, resolve_model_data_config
from timm.data.auto_augment import rand_augment_transform
from timm.data.mixup import mixup_target
from timm.data.random_erasing import RandomErasing
from timm.loss import SoftTargetCrossEntropy
from timm.optim import param_groups_layer_decay
from torchvision import transforms

from hub_models import building, samplers, store
from hub_models import classifier as contract
from hub_models.documents import read_object
from hub_models.publish.tables import as_text
from training import beginnings, figures, metrics
from training.config import TrainConfig, parse
from training.data.art import any_colour, inked, on_ground
from training.data.facts import facts_of
from training.data.files import DataError, some
from training.data.sources import Source, open_source
from training.data.split import known_concepts
from training.optim import Player
from training.order import draw_seed
from training.task import Card, Results, Task, by_label, opened_pair, run
from training.worlds import some_of

STEM = "classifier"
NOISE = (0.9, 0.5, 0.1)  # ᾱ at which a classifier of noisy pictures is measured


@dataclass(frozen=True)
class ClassifierConfig(TrainConfig):
    """One classifier experiment."""

    model_name: str = "vit_tiny_patch16_224"  # timm architecture, when trained from scratch
    model_args: dict[str, int | tuple[int, ...]] = dataclasses.field(default_factory=dict)  # its arguments
    pretrained_model_name_or_path: str | None = None  # bundled variant, folder, Hub id or timm name to start from
    tower_name_or_path: str | None = None  # instead, a tower: see training/beginnings
    label_column: str | None = None  # column that holds the class; None = "label"
    noised: bool = False  # pictures of any level of noise, which a fourth plane says: to guide a diffusion model
    # Augmentation (timm's own)
    rand_augment: str = "rand-m6-n2-mstd0.5-inc1"  # timm's RandAugment string (Cubuk 2020); "" = off
    scale: tuple[float, float] = (0.6, 1.0)  # area range of the random resized crop
    ratio: tuple[float, float] = (0.8, 1.25)  # aspect range of the random resized crop
    margin: float = 0.0  # before it, ground is added on each side, up to this share of the side: art that fills less
    random_ground: float = 0.4  # probability that transparent art lies on a random colour instead of white
    grayscale: float = 0.05  # probability of a grey picture
    color_jitter: float = 0.0  # brightness, contrast and saturation change by up to this share, hue by a third of it
    ink: float = 0.0  # probability that edges are drawn over in black, for drawings in a style of their own
    random_erasing: float = 0.1  # probability of an erased rectangle (Zhong 2020)
    random_flip: bool = False  # off by default: arrows, hands and letters have a direction
    mixup: float = 0.2  # Mixup's beta parameter (Zhang 2018); 0 = off
    cutmix: float = 1.0  # CutMix's beta parameter (Yun 2019); 0 = off
    mix_probability: float = 0.3  # probability that a batch is mixed
    label_smoothing: float = 0.1  # Szegedy 2016
    drop_path: float = 0.05  # stochastic depth (Huang 2016)
    layer_decay: float = 1.0  # learning-rate factor per layer from the top (Clark 2020); 1 = all equal
    balance: float = 0.3  # 0 = every picture counts the same, 1 = every class does

    def __post_init__(self):
        super().__post_init__()
        if self.tower_name_or_path and (self.pretrained_model_name_or_path or self.model_args):
            raise ValueError(
                "--tower_name_or_path decides the sizes of a new model: take --preset tower, and leave out "
                "--pretrained_model_name_or_path and --model_args"
            )


EMOJI = ClassifierConfig(  # augmentation: see docs/LOG.md, 2026-11-21
    output_dir="runs/classifier", resolution=64, train_batch_size=128, learning_rate=8e-4, lr_warmup_steps=300,
    adam_weight_decay=0.05, ema_decay=0.998, dataloader_num_workers=1, checkpointing_steps=250, validation_steps=500,
    rand_augment="rand-m5-n1-mstd0.5-inc1", scale=(0.7, 1.0), margin=0.25, random_ground=0.15, color_jitter=0.3,
    grayscale=0.1, ink=0.2, random_erasing=0.0, mix_probability=0.0, balance=0.0,
)  # fmt: skip
PRESETS = {
    "swin": dataclasses.replace(
        EMOJI, model_name="swin_tiny_patch4_window7_224", max_train_steps=6000,
        model_args={"img_size": 64, "window_size": 4, "embed_dim": 48, "depths": (2, 2, 4), "num_heads": (2, 4, 8)},
    ),
    "vit": dataclasses.replace(
        EMOJI, model_name="vit_tiny_patch16_224", max_train_steps=6000, learning_rate=1e-3,
        model_args={"img_size": 64, "patch_size": 8, "embed_dim": 192, "depth": 6, "num_heads": 3},
        drop_path=0.0,
    ),
    "noised": dataclasses.replace(
        EMOJI, noised=True, model_name="vit_tiny_patch16_224", resolution=32, max_train_steps=4000, optimizer="muon",
        learning_rate=3e-3, margin=0.0, random_ground=0.0, grayscale=0.0, ink=0.0, color_jitter=0.1,
        model_args={"img_size": 32, "patch_size": 4, "embed_dim": 192, "depth": 6, "num_heads": 3, "in_chans": 4},
    ),
    "tower": dataclasses.replace(EMOJI, tower_name_or_path="emoji", max_train_steps=3000, learning_rate=5e-4),
    "finetune": dataclasses.replace(
        EMOJI, pretrained_model_name_or_path="swin", dataset_name="path/to/class/folders", train_batch_size=32,
        learning_rate=3e-4, layer_decay=0.75, max_train_steps=1000, lr_warmup_steps=50, ema_decay=0.99,
        scale=(0.35, 1.0), margin=0.0, ink=0.0,
    ),
    "tiny": dataclasses.replace(
        EMOJI, model_name="vit_tiny_patch16_224", dataset_name="emoji-sample", resolution=32,
        model_args={"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
        max_train_steps=2, train_batch_size=8, lr_warmup_steps=1, dataloader_num_workers=0, checkpointing_steps=1,
        validation_steps=2, logging_steps=1, drop_path=0.0,
    ),
}  # fmt: skip


class LabelledPictures:
    """Augmented training samples {"pixels": (3, R, R) normalised, "label": ()}; see `training.order.Samples`.

    Where pictures get noise, also "noise": (3, R, R) and "alpha_bar": (), which is cos²(π u / 2), u uniform: the cosine
    schedule of Nichol & Dhariwal 2021, eq. 17, so that the model serves any schedule.
    """

    def __init__(self, source: Source, cfg: ClassifierConfig, mean: tuple, std: tuple):
        self.source, self.cfg, self.data_hash = source, cfg, source.data_hash
        source.preload(cfg.resolution + cfg.resolution // 4)
        self.mean, self.std = mean, std
        self.crop = transforms.RandomResizedCrop(
            cfg.resolution, scale=cfg.scale, ratio=cfg.ratio, interpolation=transforms.InterpolationMode.BICUBIC
        )
        hints = {"translate_const": cfg.resolution // 8, "img_mean": (255, 255, 255)}
        self.augment = rand_augment_transform(cfg.rand_augment, hints) if cfg.rand_augment else None
        shift = cfg.color_jitter
        self.jitter = transforms.ColorJitter(shift, shift, shift, min(shift / 3, 0.5)) if shift else None
        self.erase = RandomErasing(cfg.random_erasing, mode="pixel", device="cpu")
        counts = np.bincount(source.labels, minlength=len(source.label_names)).astype(np.float64)  # (K,)
        weight = np.where(counts > 0, np.maximum(counts, 1) ** -cfg.balance, 0)
        self.class_weight = torch.tensor(weight * counts.sum() / (weight * counts).sum(), dtype=torch.float32)  # (K,)

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        # timm and torchvision draw from the global generators, so those follow `draw` for this one sample. (Not by
        # torch.manual_seed: while CUDA is not initialised, each call of it keeps a stack trace for later.)
        seed = int(torch.randint(2**31, (), generator=draw))
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        margin = random.uniform(0, self.cfg.margin)
        picture = on_ground(self.source.picture(index), _ground(self.cfg.random_ground), margin)
        if random.random() < self.cfg.ink:
            picture = inked(picture)
        picture = self.crop(picture)
        if self.cfg.random_flip and random.random() < 0.5:
            picture = F.hflip(picture)
        if self.augment:
            picture = self.augment(picture)
        if self.jitter:
            picture = self.jitter(picture)
        if random.random() < self.cfg.grayscale:
            picture = F.rgb_to_grayscale(picture, 3)
        pixels = F.normalize(F.to_tensor(picture), self.mean, self.std)  # (3, R, R)
        sample = {"pixels": self.erase(pixels), "label": int(self.source.labels[index])}
        if self.cfg.noised:
            sample["noise"] = torch.randn(pixels.shape, generator=draw)
            sample["alpha_bar"] = torch.rand((), generator=draw).mul(torch.pi / 2).cos().square()
        return sample


def _ground(probability: float) -> tuple[int, int, int]:
    return any_colour(random) if random.random() < probability else (255, 255, 255)


NOISED = (
    "It takes four planes: a picture in [-1, 1] with noise on it, √ᾱ x₀ + √(1 - ᾱ) ε, and √(1 - ᾱ) at every pixel; "
    "0 is a clean picture. Its gradient guides a diffusion model."
)

# What a served model has to know of timm's pretrained_cfg; the rest tells where the base came from.
KEPT = {"architecture", "fixed_input_size", "crop_mode", "mean", "std", "pool_size", "first_conv", "classifier"}


def create_model(cfg: ClassifierConfig, num_classes: int) -> tuple[torch.nn.Module, dict]:
    """The timm model a config asks for, and its architecture arguments; a pretrained head of another size is made anew.

    Its pretrained_cfg says what this run trains it on: resolution, number of classes, the base's normalisation.
    Raises SystemExit with timm's nearest names when the architecture is unknown, CheckpointError for a bad checkpoint.
    """
    if cfg.tower_name_or_path:
        return _on_tower(cfg.tower_name_or_path, cfg, num_classes)
    args: dict = dict(cfg.model_args)
    name = cfg.pretrained_model_name_or_path
    known = timm.is_model((name or cfg.model_name).split(".")[0])
    if name is None and not known:
        near = difflib.get_close_matches(cfg.model_name, timm.list_models(), n=5, cutoff=0.4)
        raise SystemExit(f"timm has no model {cfg.model_name!r}; near: {', '.join(near) or 'none'}")
    if name and not known:  # a timm name brings its own weights; anything else is a checkpoint
        folder = store.resolve(STEM, name)
        args = (read_object(folder / "config.json").get("model_args") or {}) | args
        args.pop("num_classes", None)  # the base's, which timm writes among them
        name = f"local-dir:{folder}"
    if (args.get("in_chans", 3) == 4) != cfg.noised:
        raise SystemExit("--noised goes with a model of four planes alone: take --preset noised, or start from one")
    drop: dict = {"drop_path_rate": cfg.drop_path} if cfg.drop_path else {}
    with contextlib.ExitStack() as guards:
        if name and not known:
            guards.enter_context(store.opening(folder))
            guards.enter_context(building.as_large_as_its_weights(folder))
        model: Any = timm.create_model(
            name or cfg.model_name, pretrained=name is not None, num_classes=num_classes, **args, **drop
        )
    base = model.pretrained_cfg
    side = base.get("input_size", (3, 0, 0))[-1]
    if name and base.get("fixed_input_size") and "img_size" not in cfg.model_args and side != cfg.resolution:
        raise SystemExit(f"{cfg.pretrained_model_name_or_path} takes {side} px only: set --resolution {side}")
    _serve(model, cfg, num_classes)
    return model, args


def _serve(model: Any, cfg: ClassifierConfig, num_classes: int, **normalisation) -> None:
    """Has its pretrained_cfg say how pictures are shown to it."""
    kept = {key: value for key, value in model.pretrained_cfg.items() if key in KEPT}
    planes = 4 if cfg.noised else 3
    if cfg.noised:  # [-1, 1], as diffusion has it
        normalisation = {"mean": (0.5,) * planes, "std": (0.5,) * planes}
    side = {"input_size": (planes, cfg.resolution, cfg.resolution), "interpolation": "bicubic", "crop_pct": 1.0}
    model.pretrained_cfg = kept | normalisation | side | {"num_classes": num_classes}


def _on_tower(tower: str, cfg: ClassifierConfig, num_classes: int) -> tuple[torch.nn.Module, dict]:
    """A timm model that begins as a tower, and its arguments. Raises SystemExit where it can't."""
    begun, args = beginnings.in_timm(beginnings.tower_folder(tower), num_classes, cfg.drop_path)
    if begun.side_px != cfg.resolution:
        raise SystemExit(f"--tower_name_or_path {tower} takes {begun.side_px} px: set --resolution")
    _serve(begun.model, cfg, num_classes, mean=begun.mean, std=begun.std)
    return begun.model, args


def save(model: torch.nn.Module, model_args: dict, label_names: list[str], folder: Path) -> None:
    """Write timm's own layout: config.json (architecture, arguments, label names, normalisation), model.safetensors."""
    config = {"num_classes": len(label_names), "label_names": label_names}
    timm.models.save_for_hf(
        model, str(folder), model_config=config, model_args=model_args or None, safe_serialization=True
    )


def task_of(cfg: ClassifierConfig) -> Task:
    """The experiment of a config."""
    train, held_out = opened_pair(cfg, label_column=cfg.label_column or "label")
    if len(train.label_names) < 2:
        raise DataError(f"{train.name} has one class, {some(train.label_names)}: two are needed to tell apart.")
    torch.manual_seed(cfg.seed)
    model, model_args = create_model(cfg, len(train.label_names))
    data = resolve_model_data_config(model)
    samples = LabelledPictures(train, cfg, data["mean"][:3], data["std"][:3])
    # Mixup with probability 0 still gives the smoothed one-hot targets, so there is one path.
    probability = cfg.mix_probability if cfg.mixup or cfg.cutmix else 0.0
    mix = Mixup(
        cfg.mixup, cfg.cutmix, prob=probability, label_smoothing=cfg.label_smoothing, num_classes=len(train.label_names)
    )
    soft_cross_entropy = SoftTargetCrossEntropy()

    def loss(model, batch):
        pixels, target = mixed(mix, batch["pixels"], batch["label"])  # (B, 3, R, R), (B, K)
        if cfg.noised:
            alpha_bar = batch["alpha_bar"]  # (B,)
            x_t = samplers.add_noise(pixels, batch["noise"], alpha_bar.reshape(-1, 1, 1, 1))
            pixels = contract.with_noise_plane(x_t, alpha_bar)  # (B, 4, R, R)
        return soft_cross_entropy(model(pixels), target * samples.class_weight.to(target.device)), {}

    def evaluate(served):
        logits = logits_of(served, held_out)  # (N, K)
        return {f"top{k}": metrics.top_k_accuracy(logits, held_out.labels, k) for k in (1, 5)}

    return Task(
        stem=STEM, source=train, players=[Player(model, loss, layer_groups(model, cfg))], samples=samples,
        served=lambda model: contract.Classifier(model, train.label_names, name="in training", weights_sha256=""),
        evaluate=evaluate, save=lambda folder, served: save(served.model, model_args, train.label_names, folder),
        card=lambda served: card_of(served, cfg, train), seen=lambda: some_of(train),
    )  # fmt: skip


def mixed(mix: Mixup, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """timm's Mixup of a batch (B, 3, R, R), and targets (B, K). Of an odd number the last picture stays as it is."""
    if len(pixels) % 2 == 0:
        return mix(pixels, labels)
    last = mixup_target(labels[-1:], mix.num_classes, 1.0, mix.label_smoothing)
    if len(pixels) == 1:
        return pixels, last
    pairs, targets = mix(pixels[:-1], labels[:-1])
    return torch.cat([pairs, pixels[-1:]]), torch.cat([targets, last])


def layer_groups(model: torch.nn.Module, cfg: ClassifierConfig) -> list[dict] | None:
    """The optimiser's groups where layers learn slower from top to bottom; None where all learn alike."""
    if cfg.layer_decay < 1 and cfg.optimizer != "adamw":
        raise SystemExit("--layer_decay below 1 goes with --optimizer adamw only")
    if cfg.layer_decay < 1:
        return param_groups_layer_decay(model, cfg.adam_weight_decay, layer_decay=cfg.layer_decay)
    return None


def main(argv: list[str] | None = None) -> None:
    cfg = parse(PRESETS, argv, description=__doc__)
    run(task_of(cfg), cfg, argv)


def logits_of(model: contract.Classifier, source: Source, batch_size: int = 128) -> np.ndarray:
    """Logits (N, K) float32 of every picture of a source, as the app would compute them."""
    return metrics.in_batches(model.logits, (source.picture(i) for i in range(len(source))), batch_size)


def noisy_accuracy(model: contract.Classifier, source: Source, rows: np.ndarray, batch_size: int) -> dict[str, float]:
    """Top-1 of these pictures with noise on them, for each ᾱ of NOISE; the noise is the same in every evaluation."""
    scores = {}
    for alpha_bar in NOISE:
        right = 0
        for at in range(0, len(rows), batch_size):
            part = rows[at : at + batch_size]
            clean = model.preprocess([source.picture(i) for i in part])[:, :3]  # (B, 3, R, R)
            draws = [torch.Generator().manual_seed(draw_seed("noise", int(i))) for i in part]
            noise = torch.stack([torch.randn(clean.shape[1:], generator=draw) for draw in draws]).to(clean)
            x_t = samplers.add_noise(clean, noise, torch.tensor(alpha_bar).to(clean))
            with torch.no_grad():
                logits = model.model(contract.with_noise_plane(x_t, alpha_bar))  # (B, K)
            right += int((logits.argmax(1).cpu().numpy() == source.labels[part]).sum())
        scores[f"noisy_{alpha_bar:g}/top1"] = right / len(rows)
    return scores


def unit_features(model: contract.Classifier, source: Source, batch_size: int) -> np.ndarray:
    """What the last layer is given, (N, D) float32 of length 1, of every picture of a source."""
    rows = metrics.in_batches(model.features, (source.picture(i) for i in range(len(source))), batch_size)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _begun(cfg: ClassifierConfig) -> str:
    """What a model was before step 1."""
    if not cfg.tower_name_or_path:
        return "fine-tuned" if cfg.pretrained_model_name_or_path else "trained from scratch"
    return f"begun as {beginnings.called(beginnings.tower_folder(cfg.tower_name_or_path))}"


def card_of(served: contract.Classifier, cfg: ClassifierConfig, train: Source) -> Card:
    """What the card says of a model of this config."""
    base, side, facts = cfg.pretrained_model_name_or_path, cfg.resolution, train.facts
    kind = (base or cfg.model_name).rsplit("/", 1)[-1]
    if cfg.tower_name_or_path:
        kind = served.model.pretrained_cfg["architecture"]
    family, classes = kind.split("_")[0], len(train.label_names)
    return Card(
        name=family,
        title=f"{'ViT' if family == 'vit' else family.title()} classifier, {side} px",
        summary=f"A {kind} ({_begun(cfg)}) that sorts pictures of "
        f"{side} × {side} pixels into {classes} classes: {', '.join(map(as_text, train.label_names))}. "
        f"Training data: {facts.title}.",
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm"],
        parameters=served.parameters,
        usage='import timm\n\nmodel = timm.create_model("hf-hub:org/name", pretrained=True).eval()  '
        '# or "local-dir:path/to/this/folder"\nprint(model.pretrained_cfg["label_names"])',
        limits=[
            f"It knows {classes} classes and always answers with one of them, also for pictures of nothing it has "
            "seen.",
            f"It sees {side} × {side} pixels.",
            *([NOISED] if cfg.noised else []),
        ],
    )


def evaluate_checkpoint(name: str, dataset_name: str, *, columns: dict | None = None, batch_size: int = 128) -> Results:
    """Top-1 and top-5 of a saved classifier per evaluation set, per-class accuracy, confusion, a baseline.

    name: bundled variant, folder or Hub id. Of a model that reads noise also noisy_ᾱ/top1: see `noisy_accuracy`. Of an
    unseen style training concepts only. The baseline is the nearest
    neighbour in HOG and colour features among the training pictures. Of a model with other classes than the data the
    features are measured: the share of pictures whose nearest neighbour among the training pictures, by cosine, is of
    their class.
    """
    model, columns = contract.load(name), columns or {}
    train = open_source(dataset_name, split="train", **columns)
    same = train.label_names == model.label_names
    measured = "top1" if same else "nearest_feature_accuracy"
    if not same:
        print(f"{name} answers with other classes than {dataset_name} has: its features are measured, not its answers")
        known = unit_features(model, train, batch_size)
    reference = metrics.hog_colour_features(framed(train, range(len(train))))
    results, matrices = Results("HOG + colour nearest neighbour"), {}
    for split in facts_of(dataset_name).evaluation_sets:
        source = open_source(dataset_name, split=split, **columns)
        keep = known_concepts(source, split)
        labels = source.labels[keep]
        if same:
            logits = logits_of(model, source, batch_size)[keep]
            scores = {f"top{k}": metrics.top_k_accuracy(logits, labels, k) for k in (1, 5)}
            if model.reads_noise:
                scores |= noisy_accuracy(model, source, np.asarray(keep), batch_size)
            confusion = metrics.confusion_matrix(logits.argmax(1), labels, len(model.label_names))
            results.per_class[split] = by_label(model.label_names, metrics.per_class_accuracy(confusion))
            matrices[split] = results.curves[f"{split}/confusion"] = confusion.tolist()
        else:
            found = unit_features(model, source, batch_size)[keep]
            scores = {measured: metrics.nearest_neighbour_accuracy(known, train.labels, found, labels)}
        features = metrics.hog_colour_features(framed(source, keep))
        guessed = metrics.nearest_neighbour_accuracy(reference, train.labels, features, labels)
        results.note(split, scores | {"pictures": len(keep)}, {measured: guessed})
        results.hashes.append(source.data_hash)
    if matrices:
        results.figures["confusion"] = figures.confusion(matrices, model.label_names)
    return results


def framed(source: Source, indices: Sequence[int] | np.ndarray, size_px: int = 64) -> np.ndarray:
    """Pictures of a source whole in a white square: uint8 (N, size_px, size_px, 3)."""
    source.preload(size_px)
    return np.stack([np.asarray(contract.frame(source.picture(i), size_px)) for i in indices])


if __name__ == "__main__":
    main()
