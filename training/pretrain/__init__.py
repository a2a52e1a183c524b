"""Towers that learn from pictures without labels, for all that stands on a tower.

    python -m training.pretrain --output_dir runs/lejepa                        # LeJEPA, the Swin of the other scripts
    python -m training.pretrain --preset mae --output_dir runs/mae              # masked autoencoding, a ViT
    python -m training.pretrain --preset dino --output_dir runs/dino            # or simclr, distil, rotation, triplet
    python -m training.pretrain --preset beit --output_dir runs/beit            # codes of a VQ tokenizer of tokens
    python -m training.pretrain --preset distil --distil_name_or_path timm/vit_small_patch16_224.dino \
        --output_dir runs/distil                                                # any model of timm or transformers
    python -m training.pretrain --dataset_name my_pictures --output_dir runs/my-tower       # any folder of pictures
    python -m training.classifier --preset finetune --tower_name_or_path runs/lejepa/export …       # and then

Each objective is a module of this package, whose docstring has its equation and its source. What training alone needs
(heads, decoder, teacher) stays in the checkpoints; the export is a stock folder of timm without classes.

Letters: B batch, V views of a picture, R side in pixels, D features.
"""

import torch

from hub_models import pretrain as contract
from hub_models import store
from training import beginnings
from training.config import parse
from training.data.sources import Source
from training.optim import Player
from training.pretrain import beit, dino, distil, lejepa, mae, rotation, simclr, triplet
from training.pretrain.config import PRESETS, PretrainConfig
from training.pretrain.evaluation import evaluate_checkpoint, scores
from training.pretrain.model import create_tower
from training.pretrain.samples import UnlabelledPictures
from training.task import Card, Task, opened_pair, run
from training.worlds import some_of

__all__ = ["PRESETS", "PretrainConfig", "card_of", "create_tower", "evaluate_checkpoint", "main", "task_of"]

STEM = "pretrain"
OBJECTIVES = {
    "mae": (mae.Objective, "masked autoencoding (He et al. 2022)"),
    "lejepa": (lejepa.Objective, "LeJEPA (Balestriero and LeCun 2025)"),
    "dino": (dino.Objective, "DINO (Caron et al. 2021)"),
    "simclr": (simclr.Objective, "SimCLR (Chen et al. 2020)"),
    "distil": (distil.Objective, "distillation (Hinton et al. 2015)"),
    "rotation": (rotation.Objective, "rotation (Gidaris et al. 2018)"),
    "triplet": (triplet.Objective, "triplets of views (Schroff et al. 2015)"),
    "beit": (beit.Objective, "BEiT (Bao et al. 2022)"),
}


def task_of(cfg: PretrainConfig) -> Task:
    """The experiment of a config."""
    train, held_out = opened_pair(cfg, **({"label_column": cfg.label_column} if cfg.label_column else {}))
    torch.manual_seed(cfg.seed)
    tower = create_tower(cfg)
    objective = OBJECTIVES[cfg.objective][0](tower, cfg)

    return Task(
        stem=STEM, source=train, players=[Player(objective, lambda model, batch: model(batch))],
        samples=UnlabelledPictures(train, cfg, tower.patch_embed.num_patches),
        served=lambda module: contract.Tower(module.tower),
        evaluate=lambda served: scores(served, train, held_out, cfg.validation_pictures), save=contract.save_folder,
        card=lambda served: card_of(served, cfg, train), seen=lambda: some_of(train), pictures_per_sample=cfg.views,
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    cfg = parse(PRESETS, argv, description=__doc__)
    run(task_of(cfg), cfg, argv)


def card_of(served: contract.Tower, cfg: PretrainConfig, train: Source) -> Card:
    """What the card says of a tower of this config."""
    kind, side = served.model.pretrained_cfg["architecture"], served.resolution_px
    began = "fine-tuned" if cfg.pretrained_model_name_or_path else "trained from scratch"
    how = OBJECTIVES[cfg.objective][1]
    taught: list[str] = []
    if cfg.distil_name_or_path:
        folder = beginnings.tower_folder(cfg.distil_name_or_path)
        taught = [*beginnings.inherited(folder), f"its teacher: {beginnings.called(folder)}"]
    if cfg.objective == "beit":
        folder = store.resolve("tokens", cfg.beit_tokens_name_or_path)
        name, weights = "/".join(folder.parts[-2:]), store.weights_sha256(folder)[:12]
        taught = [*beginnings.inherited(folder), f"its codes: the tokenizer of {name}, weights {weights}"]
    return Card(
        name=f"{cfg.objective}-{kind.split('_')[0]}",
        title=f"{'ViT' if kind.startswith('vit') else kind.split('_')[0].title()} without labels, {side} px",
        summary=f"What a picture of {side} × {side} pixels shows, as {served.width} numbers, and as many for each of "
        f"its places: a {kind} ({began}) that learned by {how} from pictures alone. Training data: "
        f"{train.facts.title}.",
        library_name="timm",
        pipeline_tag="image-feature-extraction",
        tags=["image-feature-extraction", "timm", "self-supervised"],
        parameters=served.parameters,
        credits=taught,
        usage='import timm\n\nmodel = timm.create_model("hf-hub:org/name", pretrained=True, num_classes=0).eval()  '
        '# or "local-dir:path/to/this/folder"\nfeatures = model(pixels)  # (B, D), of pixels (B, 3, R, R) in [-1, 1]',
        limits=[
            "It has no classes: something has to be learned on its features before it says a word.",
            f"It sees {side} × {side} pixels.",
        ],
    )
