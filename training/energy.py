"""An energy-based model: emoji where the energy is low, by class, drawn by Langevin dynamics.

    python -m training.energy --output_dir runs/energy --mixed_precision bf16
    python -m training.energy --dataset_name my_pictures --output_dir runs/my-energy

The gradient of -log p(x|y) lowers the energy of a training picture and raises that of a picture of the model's own
(contrastive divergence; Hinton 2002). The latter come from chains that go on for the whole training, in a replay
buffer of which a twentieth begins anew each time (Tieleman 2008; Du & Mordatch 2019, algorithm 1). One output per class
and cross-entropy beside it make -log p(x|y) - log p(y|x) (Grathwohl et al. 2020, §4).

Letters: B batch, R side of the picture in pixels, K labels, M chains of each label in the buffer.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from hub_models import drawing
from hub_models import energy as contract
from hub_models.pictures import to_uint8
from training import figures, metrics
from training.config import TrainConfig, parse, require_resolution
from training.data.facts import facts_of
from training.data.sources import Source
from training.drawn import clean_picture, exam_of, measure
from training.optim import Player
from training.order import draw_seed
from training.task import Card, Results, Task, by_label, opened_pair, run

STEM = "energy"
FEWER = 300  # pictures that are drawn to be measured: a chain takes its time
MEASURED_PICTURES = 1024  # training pictures whose energies the export keeps, evenly spread


@dataclass(frozen=True)
class EnergyConfig(TrainConfig):
    """One energy-based experiment."""

    # Network
    block_out_channels: tuple[int, ...] = (32, 48, 96, 192)  # channels per resolution, finest first
    layers_per_block: int = 1  # residual blocks per resolution below the finest
    # Data
    label_column: str | None = None  # column that holds the class; None = "label"
    picture_noise_std: float = 0.03  # of the noise on training pictures, which smooths the energy between them
    shift_px: int = 1  # training pictures are moved so far at random in either direction
    # Chains
    langevin_steps: int = 10  # of each chain for each step of the optimiser
    step_size: float = 20.0  # of a step down the energy, on pictures in [-1, 1]: energies stay within ±5
    noise_std: float = 0.01  # of the noise of a step; √(2 step_size) would be a temperature of 1
    replay_size: int = 1200  # chains in the buffer, as many of each label
    fresh_rate: float = 0.05  # share of chains that begin anew, at noise
    sample_steps: int = 200  # of a chain from noise to a picture: the default that the export carries
    # Loss
    regulariser_weight: float = 0.1  # of the mean squared energies, which have no zero otherwise
    label_weight: float = 1.0  # of the cross-entropy

    def __post_init__(self):
        super().__post_init__()
        halvings = len(self.block_out_channels) - 1
        if not self.block_out_channels or min(self.block_out_channels) < 1 or self.resolution % 2**halvings:
            raise ValueError(
                f"--block_out_channels {self.block_out_channels} halve the side {halvings} times: --resolution must be "
                f"a multiple of {2**halvings}, and each at least 1"
            )
        for name in ("langevin_steps", "replay_size", "sample_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.fresh_rate <= 1 or not 0 <= self.shift_px < self.resolution:
            raise ValueError("--fresh_rate must lie in [0, 1], and --shift_px in [0, --resolution)")
        for name in ("picture_noise_std", "step_size", "noise_std", "regulariser_weight", "label_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"--{name} must be a number of at least 0, got {getattr(self, name)}")


EMOJI_32 = EnergyConfig(
    output_dir="runs/energy", resolution=32, train_batch_size=32, learning_rate=3e-4, lr_warmup_steps=200,
    adam_beta1=0.0, adam_beta2=0.999, adam_weight_decay=0.0, ema_decay=0.999, max_train_steps=3000,
    checkpointing_steps=250, validation_steps=1000,
)  # fmt: skip
PRESETS = {
    "emoji-32": EMOJI_32,
    "tiny": dataclasses.replace(
        EMOJI_32, dataset_name="emoji-sample", resolution=16, block_out_channels=(8, 16, 16), langevin_steps=3,
        replay_size=12, sample_steps=4, max_train_steps=2, train_batch_size=8, lr_warmup_steps=1,
        checkpointing_steps=1, validation_steps=2, logging_steps=1,
    ),
}  # fmt: skip


class PicturesAndChains:
    """Training samples of a picture and of the chain that plays against it; see `training.order.Samples`.

    {"picture", "start": (3, R, R), "label", "slot", "fresh", "chain_seed": ()}: a chain of the picture's label, number
    `slot` of that label in the buffer; or one that begins at `start`, and takes that place.
    """

    def __init__(self, source: Source, cfg: EnergyConfig, chains_per_label: int):
        self.source, self.data_hash, self.cfg, self.chains_per_label = source, source.data_hash, cfg, chains_per_label
        source.preload(cfg.resolution)

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        side, most = self.cfg.resolution, self.cfg.shift_px
        picture = pictures_at(self.source, [index], side)[0]  # (3, R, R)
        padded = F.pad(picture[None], (most,) * 4, mode="replicate")[0] if most else picture
        top, left = torch.randint(2 * most + 1, (2,), generator=draw).tolist()
        picture = padded[:, top : top + side, left : left + side]
        return {
            "picture": picture + self.cfg.picture_noise_std * torch.randn(picture.shape, generator=draw),
            "start": 2 * torch.rand(picture.shape, generator=draw) - 1,
            "label": int(self.source.labels[index]),
            "slot": torch.randint(self.chains_per_label, (), generator=draw),
            "fresh": torch.rand((), generator=draw) < self.cfg.fresh_rate,
            "chain_seed": torch.randint(2**62, (), generator=draw),
        }


class Contrast(torch.nn.Module):
    """The network beside its replay buffer, uint8 (K, M, 3, R, R).

    The buffer is a buffer of this module and no part of the network: a checkpoint holds it, so that a killed run goes
    on with the same chains, a skipped step leaves it as it was, and no export knows of it. Bytes, as in Du & Mordatch's
    own code: chains are rounded when they come to rest. Where several processes train, the first one's chains are kept.
    """

    replay: torch.Tensor

    def __init__(self, network: contract.EnergyNetwork, cfg: EnergyConfig):
        super().__init__()
        self.network, self.cfg = network, cfg
        shape = (network.num_labels, chains_per_label(cfg, network.num_labels), 3, cfg.resolution, cfg.resolution)
        draw = torch.Generator().manual_seed(draw_seed("replay", cfg.seed))
        self.register_buffer("replay", torch.randint(256, shape, generator=draw, dtype=torch.uint8))

    def forward(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """f(x) of the training pictures and of the ends of their chains, (B, K) both; the buffer keeps these ends."""
        ends = self.walk(batch)
        both = self.network(torch.cat([batch["picture"], ends]))  # (2 B, K)
        return both.chunk(2)

    def walk(self, batch: dict) -> torch.Tensor:
        """The chains of a batch, (B, 3, R, R), langevin_steps further than they were."""
        labels, slots = batch["label"], batch["slot"]
        kept = self.replay[labels, slots].float() / 127.5 - 1  # (B, 3, R, R)
        x = torch.where(batch["fresh"][:, None, None, None], batch["start"], kept)
        generators = drawing.generators_of(batch["chain_seed"].tolist())
        steps = contract.langevin(
            lambda x: contract.label_energy(self.network(x), labels), x,
            lambda: drawing.noise(generators, x.shape[1:], x.device),
            steps=self.cfg.langevin_steps, step_size=self.cfg.step_size, noise_std=self.cfg.noise_std,
        )  # fmt: skip
        for x, _ in steps:  # noqa: B007
            pass
        rounded = ((x + 1) * 127.5).round().byte()
        for label, slot, end in zip(labels.tolist(), slots.tolist(), rounded, strict=True):
            self.replay[label, slot] = end  # one by one: of two ends for one place the later stays, on every device
        return x


def chains_per_label(cfg: EnergyConfig, num_labels: int) -> int:
    """M: the buffer's share of a label."""
    return max(1, cfg.replay_size // num_labels)


def contrastive_loss(real, drawn, labels: torch.Tensor, cfg: EnergyConfig) -> tuple[torch.Tensor, dict]:
    """The loss and its parts, of f(x) of pictures and of chains' ends (B, K), and labels (B,).

    E(x⁺, y) - E(x⁻, y), whose gradient is that of -log p(x|y) (Du & Mordatch 2019, eq. 2); the mean squares of both
    (ibid., §3.2); and the cross-entropy of labels, -log p(y|x⁺).
    """
    low, high = contract.label_energy(real, labels), contract.label_energy(drawn, labels)  # (B,)
    squares, entropy = (low.square() + high.square()).mean(), F.cross_entropy(real, labels)
    gap = (low - high).mean()
    loss = gap + cfg.regulariser_weight * squares + cfg.label_weight * entropy
    right = (real.argmax(1) == labels).float().mean()
    parts = {"gap": gap, "energy": low.mean(), "cross_entropy": entropy, "top1": right}
    return loss, {name: value.detach() for name, value in parts.items()}


def pictures_at(source: Source, indices: Sequence[int], resolution_px: int) -> torch.Tensor:
    """Pictures of a source as the model sees them, (N, 3, R, R): whole, in a white square."""
    return torch.stack([clean_picture(source.picture(index), resolution_px) for index in indices])


def spread(source: Source, limit: int | None = None) -> list[int]:
    """The numbers of up to `limit` pictures, evenly spread over a source; of all by default."""
    count = len(source) if limit is None else min(limit, len(source))
    return [i * len(source) // count for i in range(count)]


@torch.no_grad()
def outputs_of(model: contract.EnergyModel, pictures: torch.Tensor, batch_size: int = 128) -> torch.Tensor:
    """f(x), (N, K) on the CPU, of pictures (N, 3, R, R)."""
    return torch.cat([model.model(part.to(model.device)).float().cpu() for part in pictures.split(batch_size)])


def draw(model: contract.EnergyModel, labels: Sequence[int], seed: int, *, batch_size=64, steps=None) -> np.ndarray:
    """One picture per label, uint8 (N, R, R, 3); picture i has seed f(seed, i)."""
    made = []
    for at in range(0, len(labels), batch_size):
        part = labels[at : at + batch_size]
        seeds = [draw_seed("draw", seed, at + i) for i in range(len(part))]
        for last in model.sample(part, seeds, steps=steps):  # noqa: B007
            pass
        made.append(to_uint8(last.x))
    return np.concatenate(made)


def task_of(cfg: EnergyConfig) -> Task:
    """The experiment of a config."""
    train, held_out = opened_pair(cfg, label_column=cfg.label_column or "label")
    names = list(train.label_names)
    torch.manual_seed(cfg.seed)
    player = Contrast(start_from(cfg, names), cfg)
    samples = PicturesAndChains(train, cfg, chains_per_label(cfg, len(names)))
    held_out.preload(cfg.resolution)
    shown = spread(held_out, 256)
    pictures, labels = pictures_at(held_out, shown, cfg.resolution), torch.from_numpy(held_out.labels[shown])

    def loss(model, batch):
        return contrastive_loss(*model(batch), batch["label"], cfg)

    def evaluate(served):
        outputs = outputs_of(served, pictures)
        noise = outputs_of(served, 2 * torch.rand(pictures.shape, generator=torch.Generator().manual_seed(0)) - 1)
        known, odd = (contract.picture_energy(part).numpy() for part in (outputs, noise))
        right = (outputs.argmax(1) == labels).float().mean()
        return {"top1": float(right), "auroc_noise": metrics.auroc(odd, known)}

    def drawn(served):
        rows = [row for row in range(len(names)) for _ in range(4)]
        return figures.sheet(draw(served, rows, seed=0), columns=8, zoom=2)

    def measured(served):
        some = pictures_at(train, spread(train, MEASURED_PICTURES), cfg.resolution)
        energies = contract.picture_energy(outputs_of(served, some)).numpy()
        return around(served.model, cfg, names, contract.quantiles_of(energies))

    return Task(
        stem=STEM, source=train, players=[Player(player, loss)], samples=samples,
        served=lambda module: around(module.network, cfg, names), evaluate=evaluate, draw=drawn, finished=measured,
        save=contract.save_folder, card=lambda served: card_of(served, cfg, train),
    )  # fmt: skip


def around(network, cfg: EnergyConfig, names: list[str], quantiles: list[float] | None = None) -> contract.EnergyModel:
    """The contract's object around a network, sampling as it was trained."""
    return contract.EnergyModel(
        network, label_names=names, step_size=cfg.step_size, noise_std=cfg.noise_std, steps=cfg.sample_steps,
        energy_quantiles=quantiles,
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    cfg = parse(PRESETS, argv, description=__doc__)
    run(task_of(cfg), cfg, argv)


def start_from(cfg: EnergyConfig, label_names: list[str]) -> contract.EnergyNetwork:
    """The network to train: a fresh one, or a checkpoint's, its last layer new where labels differ (it says so)."""
    if not cfg.pretrained_model_name_or_path:
        sizes = (cfg.resolution, list(cfg.block_out_channels), cfg.layers_per_block)
        return contract.EnergyNetwork(len(label_names), *sizes)
    model = contract.load(cfg.base, device="cpu")
    require_resolution(cfg, model.resolution_px)
    network = model.model.requires_grad_(True).train()
    if model.label_names != label_names:
        print(f"labels differ from {cfg.base}: a new last layer for {len(label_names)} labels")
        fresh = contract.EnergyNetwork(
            len(label_names), network.sample_size, network.block_out_channels, network.layers_per_block
        )
        fresh.load_state_dict(network.state_dict() | fresh.head.state_dict(prefix="head."))
        return fresh
    return network


def card_of(served: contract.EnergyModel, cfg: EnergyConfig, train: Source) -> Card:
    """What the card says of a model of this config."""
    side, facts, classes = cfg.resolution, train.facts, len(train.label_names)
    return Card(
        name=f"{facts.ours}-{side}" if facts.ours else STEM,
        title=f"Energy-based model, {side} px, {classes} classes",
        summary=f"A network that gives {side} × {side} pictures an energy, low where they are like what it has seen, "
        f"with one output for each of {classes} classes: it draws by Langevin dynamics down that energy, tells how odd "
        f"a picture is, and classifies. Training data: {facts.title}. No library has a class for it: config.json and "
        "safetensors are those of huggingface_hub's PyTorchModelHubMixin, and hub_models/energy.py has the network.",
        library_name="pytorch",
        pipeline_tag="unconditional-image-generation",
        tags=["pytorch", "energy-based-model", "pytorch_model_hub_mixin", "model_hub_mixin"],
        parameters=served.parameters,
        usage="from hub_models import energy  # of this project\n\n"
        'model = energy.load("org/name")  # the network alone: energy.EnergyNetwork.from_pretrained("org/name")\n'
        f"*_, last = model.sample([{train.label_names[0]!r}], seeds=[0])\npicture = model.to_pil(last.x)[0]\n"
        "print(model.energy([picture]), model.anomaly([picture]))",
        limits=[
            f"It draws {side} × {side} pixels, many of them only roughly like the class asked for.",
            "Its energies compare with each other alone: they are no log-likelihoods, whose constant is unknown.",
        ],
    )


def evaluate_checkpoint(
    name: str, dataset_name: str, *, columns: dict | None = None, judge: str | None = None, batch_size: int = 64
) -> Results:
    """How well a saved model tells, draws by label, and finds odd pictures odd.

    Of FEWER drawn pictures what `drawn.measure` says, beside real ones. validation/top1: of softmax f(x), beside a
    nearest neighbour's (HOG and colour).
    auroc_…: the probability that E(x) of an odd picture is above that of a validation picture, beside that of the
    distance to the nearest training picture: of uniform noise; of validation pictures in negative; of these rolled by
        half their side, so that the middle lies in the corners.
    columns, judge: see `drawn.exam_of`.
    """
    model = contract.load(name)
    exam = exam_of(name, dataset_name, model.label_names, model.resolution_px, columns, judge)
    results = exam.results()

    def drawn(labels: Sequence[int], seed: int) -> np.ndarray:
        return draw(model, labels, seed, batch_size=batch_size)

    pictures = measure(results, exam, drawn(exam.asked[:FEWER], 1), drawn)
    splits = [split for split in facts_of(dataset_name).evaluation_sets if split != "unseen_style"]
    parts = dict(zip(splits, exam.held_out, strict=True))
    shown = {split: pictures_at(source, spread(source), model.resolution_px)
             for split, source in {"train": exam.train, **parts}.items()}  # fmt: skip
    note_energies(results, model, shown, exam.train, parts)
    results.figures["samples"] = figures.sheet(pictures[: 12 * max(8, len(model.label_names))], 12, zoom=2)
    return results


def note_energies(results: Results, model: contract.EnergyModel, shown: dict, train: Source, splits: dict) -> None:
    """Note what the network says of pictures that are there: their labels, and that odd ones are odd."""
    features = {split: metrics.hog_colour_features(to_uint8(x)) for split, x in shown.items()}
    for split, source in splits.items():
        right = outputs_of(model, shown[split]).argmax(1).numpy() == source.labels
        nearest = metrics.nearest_neighbour_accuracy(features["train"], train.labels, features[split], source.labels)
        results.note(split, {"top1": float(right.mean()), "pictures": len(right)}, {"top1": nearest})
        if split == "validation":
            results.per_class["validation/top1"] = by_label(
                model.label_names, [right[source.labels == row].mean() for row in range(len(model.label_names))]
            )
    usual, side = shown["validation"], model.resolution_px
    noise = torch.rand(usual.shape, generator=torch.Generator().manual_seed(0))
    odd = {"noise": 2 * noise - 1, "negative": -usual, "rolled": usual.roll((side // 2, side // 2), (2, 3))}
    known = metrics.rms_rows(to_uint8(shown["train"]))

    def oddness(x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """By energy, and by distance to the nearest training picture, (N,) both."""
        nearest = metrics.nearest_distances(metrics.rms_rows(to_uint8(x)), known)[1]
        return contract.picture_energy(outputs_of(model, x)).numpy(), nearest

    energy, distance = oddness(usual)
    for kind, x in odd.items():
        by_energy, by_distance = oddness(x)
        results.metrics[f"auroc_{kind}"] = metrics.auroc(by_energy, energy)
        results.baseline[f"auroc_{kind}"] = metrics.auroc(by_distance, distance)


if __name__ == "__main__":
    main()
