"""The detector that a training begins with: a new one, on a tower or without, or that of a checkpoint.

A new one is a DEIM (Huang et al. 2025, v2), a real-time DETR (Zhao et al. 2024): every cell of the maps at each stride
answers with classes and a box, the surest answers are the decoder's queries, and no two are meant for the same thing.
"""

import copy
import json
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    Deimv2Config,
    Deimv2ForObjectDetection,
    RTDetrImageProcessor,
    SwinConfig,
    TimmBackboneConfig,
)

from hub_models import classifier, store
from hub_models import detection as contract
from training.beginnings import swin_of
from training.detection.config import SIZES, DetectionConfig
from training.task import some

STRIDES = {"swin": (8, 16), "timm": (8, 16, 32)}  # of the maps that are read; things are seldom smaller than a cell


def create_model(cfg: DetectionConfig, label_names: list[str]) -> contract.Detector:
    """A fresh detector with its image processor. Raises SystemExit for a tower or a resolution that doesn't do."""
    args: dict = SIZES | cfg.model_args
    folder = tower_folder(cfg.tower_name_or_path) if cfg.tower_name_or_path else None
    mean = std = [0.5, 0.5, 0.5]
    if folder and is_timm(folder):
        tower = classifier.load(folder, device="cpu")
        backbone, channels, strides = _timm_backbone(tower.model, folder)
        mean, std = (part.flatten().tolist() for part in (tower.mean, tower.std))
    else:
        tower = swin_of(folder) if folder else None
        backbone, channels, strides = _swin_backbone(args, cfg.resolution, tower)
    if cfg.resolution % strides[-1]:
        raise SystemExit(f"--resolution {cfg.resolution} is no multiple of {strides[-1]}, the side of the largest cell")
    levels = len(strides)
    model = Deimv2ForObjectDetection(
        Deimv2Config(
            backbone_config=backbone, freeze_backbone_batch_norms=False, encoder_in_channels=channels,
            feat_strides=list(strides), encode_proj_layers=[levels - 1], encoder_hidden_dim=args["width"],
            encoder_ffn_dim=args["ffn"], encoder_attention_heads=args["heads"], depth_mult=args["depth"],
            hidden_expansion=args["expansion"], d_model=args["width"], decoder_in_channels=[args["width"]] * levels,
            num_feature_levels=levels, num_queries=args["queries"], decoder_ffn_dim=args["ffn"],
            decoder_layers=args["layers"], decoder_attention_heads=args["heads"], num_denoising=args["denoising"],
            id2label=dict(enumerate(label_names)), label2id={name: k for k, name in enumerate(label_names)},
        )
    )  # fmt: skip
    begin_as(model, tower, folder)
    size = {"height": cfg.resolution, "width": cfg.resolution}
    processor = RTDetrImageProcessor(size=size, do_normalize=True, image_mean=mean, image_std=std)
    return contract.Detector(model, processor, label_names, name="in training")


def _swin_backbone(args: dict, side_px: int, tower: Any) -> tuple[SwinConfig, list[int], tuple[int, ...]]:
    """The config of a Swin, that of the tower where there is one, the channels of its maps, and their strides."""
    if tower is not None:
        own = tower.config.to_dict() | {"drop_path_rate": args["drop_path_rate"]}
    else:
        own = {key: args[key] for key in ("embed_dim", "depths", "num_heads", "window_size", "patch_size")}
        own["drop_path_rate"] = args["drop_path_rate"]
    strides = {own["patch_size"] << stage: stage for stage in range(len(own["depths"]))}  # the first is not halved yet
    if any(stride not in strides for stride in STRIDES["swin"]):
        raise SystemExit(f"--tower_name_or_path: this Swin has maps at strides {list(strides)}; 8 and 16 are needed")
    places = [strides[stride] for stride in STRIDES["swin"]]
    stages = [f"stage{place + 1}" for place in places]
    config = SwinConfig.from_dict(own | {"image_size": side_px, "out_features": stages, "out_indices": None})
    return config, [own["embed_dim"] << place for place in places], STRIDES["swin"]


def _timm_backbone(tower: torch.nn.Module, folder: Path) -> tuple[TimmBackboneConfig, list[int], tuple[int, ...]]:
    """The config of a classifier of timm as a backbone, the channels of its maps, and their strides."""
    known = cast(Any, tower)
    kind, info = known.pretrained_cfg["architecture"], known.feature_info
    strides = [entry["reduction"] for entry in info]
    if any(stride not in strides for stride in STRIDES["timm"]):
        raise SystemExit(
            f"--tower_name_or_path {folder}: {kind} has maps at strides {strides}; 8, 16 and 32 are needed"
        )
    places = [strides.index(stride) for stride in STRIDES["timm"]]
    config = TimmBackboneConfig.from_dict({"backbone": kind, "out_indices": places})
    return config, [info[place]["num_chs"] for place in places], STRIDES["timm"]


def begin_as(model: Deimv2ForObjectDetection, tower: Any, folder: Path | None) -> None:
    """Load a tower's weights into the backbone, of which that may lack the last.

    Raises SystemExit where the tower lacks some.
    """
    backbone = backbone_of(model)
    assert backbone is not None
    if tower is None:  # grey is 0, and with the library's biases of 0 a grey patch is a token of zeros to a layer norm
        patches = next(layer for layer in backbone.modules() if isinstance(layer, torch.nn.Conv2d))
        torch.nn.init.normal_(cast(torch.Tensor, patches.bias), std=0.1)
        return
    inside = getattr(backbone, "_backbone", getattr(backbone, "swin", backbone))
    begun = tower.model if isinstance(tower, classifier.Classifier) else tower
    try:
        missing = inside.load_state_dict(begun.state_dict(), strict=False).missing_keys
    except RuntimeError as error:
        said = str(error).splitlines()[-1].strip()
        raise SystemExit(
            f"--tower_name_or_path {folder}: {said}; positions of a Swin are for one size: set --resolution to that"
        ) from None
    if missing:
        raise SystemExit(f"--tower_name_or_path {folder}: its weights lack {missing[0]}")


def backbone_of(model: Any) -> torch.nn.Module | None:
    """The backbone of a detector; None of one without."""
    inner = getattr(model, "model", model)
    encoder = getattr(inner, "conv_encoder", getattr(inner, "backbone", None))
    return getattr(encoder, "model", encoder)


def tower_folder(name: str) -> Path:
    """Where --tower_name_or_path lies. Raises store.CheckpointError."""
    stems = [stem for stem in ("classifier", "segmentation", "clip") if name in store.bundled(stem)]
    return store.resolve(stems[0] if stems else "clip", name)


def is_timm(folder: Path) -> bool:
    """Whether a folder is of timm: transformers' configs name no architecture of their own."""
    return "architecture" in json.loads((folder / "config.json").read_text(encoding="utf-8"))


def start_from(cfg: DetectionConfig, label_names: list[str]) -> contract.Detector:
    """The detector of a checkpoint, ready to train on these classes; what tells classes apart is new where they differ.

    It sees pictures at cfg.resolution.
    """
    served = contract.load(cfg.base, device="cpu")
    model, processor = served.model, served.processor
    if served.label_names != label_names:
        print(
            f"{cfg.base} tells {len(served.label_names)} classes apart ({some(served.label_names)}), "
            f"{cfg.dataset_name} has {len(label_names)} ({some(label_names)}): its class layers are made anew, all "
            "other weights are kept"
        )
        config = copy.deepcopy(model.config)
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: k for k, name in enumerate(label_names)}
        folder = store.resolve("detection", cfg.base)
        model = type(model).from_pretrained(
            folder, config=config, ignore_mismatched_sizes=True, dtype=torch.float32, use_safetensors=True,
            trust_remote_code=False, variant=store.variant_of(folder),
        )  # fmt: skip
    with torch.device("meta"):  # what its library doesn't train stays as it is
        trained = {name for name, p in type(model)(model.config).named_parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    if cfg.resolution != served.resolution_px:
        size = {"height": cfg.resolution, "width": cfg.resolution}
        processor = type(processor).from_dict(processor.to_dict() | {"size": size})
    return contract.Detector(model, processor, label_names, name="in training", threshold=served.threshold)


def describe_start(cfg: DetectionConfig) -> str:
    """What a model was before step 1, for its card."""
    if cfg.pretrained_model_name_or_path:
        return "fine-tuned"
    if cfg.tower_name_or_path:
        folder = tower_folder(cfg.tower_name_or_path)
        part = "" if is_timm(folder) else "the Swin of "
        called = f"{part}{'/'.join(folder.parts[-2:])}, weights {store.weights_sha256(folder)[:12]}"
        return f"its backbone began as {called}; the rest is trained from scratch"
    return "trained from scratch"
