"""The detector that a training begins with: a new one, on a tower or without, or that of a checkpoint.

A new one is a DEIM (Huang et al. 2025, v2), a real-time DETR (Zhao et al. 2024): every cell of the maps at each stride
answers with classes and a box, the surest answers are the decoder's queries, and no two are meant for the same thing.
For masks it is a Mask R-CNN (He et al. 2017; hub_models/rcnn.py), or a MaskFormer (Cheng et al. 2021): each query ends
as a class and a vector, whose product with those of the pixels is a mask.
"""

import copy
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    Deimv2Config,
    Deimv2ForObjectDetection,
    DetrConfig,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
    RTDetrImageProcessor,
    SwinConfig,
    TimmBackboneConfig,
)
from transformers.models.maskformer.configuration_maskformer_swin import MaskFormerSwinConfig

from hub_models import detection as contract
from hub_models import rcnn, store
from training.beginnings import called, is_swin, is_timm, opened, swin_of, tower_folder
from training.detection.config import SIZES, DetectionConfig
from training.task import some
from training.towers import as_maskformer

STRIDES = {"swin": (8, 16), "timm": (8, 16, 32)}  # of the maps that are read; things are seldom smaller than a cell


def create_model(cfg: DetectionConfig, label_names: list[str]) -> contract.Detector:
    """A fresh detector with its image processor. Raises SystemExit for a tower or a resolution that doesn't do."""
    args: dict = SIZES | cfg.model_args
    folder = tower_folder(cfg.tower_name_or_path) if cfg.tower_name_or_path else None
    mean = std = (0.5, 0.5, 0.5)
    if folder and is_timm(folder):
        begun = opened(folder)
        mean, std = begun.mean, begun.std
    named = {"id2label": dict(enumerate(label_names)), "label2id": {name: k for k, name in enumerate(label_names)}}
    shown: dict = {"size": {"height": cfg.resolution, "width": cfg.resolution}, "do_normalize": True}
    shown |= {"image_mean": list(mean), "image_std": list(std)}
    if cfg.architecture == "maskformer":
        model, processor = _maskformer(args, cfg, named, folder), MaskFormerImageProcessor(size_divisor=0, **shown)
    elif cfg.architecture == "rcnn":
        model, processor = _rcnn(args, cfg, named, folder), rcnn.RcnnImageProcessor(**shown)
    else:
        model, processor = _deim(args, cfg, named, folder), RTDetrImageProcessor(**shown)
    return contract.Detector(model, processor, label_names, name="in training")


def _deim(args: dict, cfg: DetectionConfig, named: dict, folder: Path | None) -> Deimv2ForObjectDetection:
    """named: the classes, as a config has them. folder: of the tower that the backbone begins as."""
    if folder and is_timm(folder) and not is_swin(folder):
        tower = opened(folder).model
        backbone, channels, strides = _timm_backbone(tower, folder)
    else:
        tower = swin_of(folder) if folder else None
        backbone, channels, strides = _swin_backbone(args, cfg.resolution, tower)
    _check_resolution(cfg, strides[-1])
    levels = len(strides)
    model = Deimv2ForObjectDetection(
        Deimv2Config(
            backbone_config=backbone, freeze_backbone_batch_norms=False, encoder_in_channels=channels,
            feat_strides=list(strides), encode_proj_layers=[levels - 1], encoder_hidden_dim=args["width"],
            encoder_ffn_dim=args["ffn"], encoder_attention_heads=args["heads"], depth_mult=args["depth"],
            hidden_expansion=args["expansion"], d_model=args["width"], decoder_in_channels=[args["width"]] * levels,
            num_feature_levels=levels, num_queries=args["queries"], decoder_ffn_dim=args["ffn"],
            decoder_layers=args["layers"], decoder_attention_heads=args["heads"], num_denoising=args["denoising"],
            **named,
        )
    )  # fmt: skip
    begin_as(model, None if tower is None else tower.state_dict(), folder)
    return model


def _maskformer(args: dict, cfg: DetectionConfig, named: dict, folder: Path | None):
    """As `_deim`, of all stages of a Swin: at their strides its maps become one at the finest."""
    tower = swin_of(folder) if folder else None
    own = _swin_sizes(args, tower)
    stages = [f"stage{number + 1}" for number in range(len(own["depths"]))]
    _check_resolution(cfg, own["patch_size"] << (len(stages) - 1))
    backbone = MaskFormerSwinConfig.from_dict(own | {"image_size": cfg.resolution, "out_features": stages})
    decoder = DetrConfig(
        d_model=args["width"], num_queries=args["queries"], decoder_layers=args["layers"], dropout=0.0,
        decoder_ffn_dim=args["ffn"], decoder_attention_heads=args["heads"], encoder_attention_heads=args["heads"],
    )  # fmt: skip
    config = MaskFormerConfig(
        backbone_config=backbone, decoder_config=decoder, fpn_feature_size=args["mask_width"],
        mask_feature_size=args["mask_width"], dice_weight=cfg.dice_weight, mask_weight=cfg.mask_weight, **named,
    )  # fmt: skip
    model = MaskFormerForInstanceSegmentation(config)
    decoder = model.model.transformer_module
    torch.nn.init.normal_(decoder.queries_embedder.weight)  # as published; the library draws all of it with 0.02, from
    for weights in decoder.decoder.parameters():  # which queries are alike for hundreds of steps
        if weights.ndim > 1:
            torch.nn.init.xavier_uniform_(weights)
    if tower is not None and tower.config.use_absolute_embeddings:
        print(f"{folder}: the absolute positions of its Swin are left out, since a MaskFormer's can't add them")
    begin_as(model, None if tower is None else as_maskformer(tower), folder)
    return model


def _rcnn(args: dict, cfg: DetectionConfig, named: dict, folder: Path | None) -> rcnn.SwinMaskRCNN:
    """As `_deim`, of all stages of a Swin. The boxes that a cell speaks of are three or four cells wide."""
    tower = swin_of(folder) if folder else None
    own = _swin_sizes(args, tower)
    stages = [f"stage{number + 1}" for number in range(len(own["depths"]))]
    strides = [own["patch_size"] << number for number in range(len(stages))]
    _check_resolution(cfg, strides[-1])
    model = rcnn.SwinMaskRCNN(
        rcnn.RcnnConfig(
            _swin_config(own, cfg.resolution, tower, stages), width=args["width"], hidden=args["head"],
            anchor_px=[[3 * stride, round(4.25 * stride)] for stride in strides], answers=args["queries"],
            proposals=args["proposals"], **named,
        )
    )  # fmt: skip
    begin_as(model, None if tower is None else tower.state_dict(), folder)
    return model


def _check_resolution(cfg: DetectionConfig, cell_px: int) -> None:
    if cfg.resolution % cell_px:
        raise SystemExit(f"--resolution {cfg.resolution} is no multiple of {cell_px}, the side of the largest cell")


def _swin_sizes(args: dict, tower: Any) -> dict:
    """What a Swin is built of: as the tower where there is one, else as `args` say."""
    keys = ("embed_dim", "depths", "num_heads", "window_size", "patch_size")
    if tower is None:
        own = {key: args[key] for key in keys}
    else:
        more = ("mlp_ratio", "qkv_bias", "layer_norm_eps", "hidden_act", "num_channels")
        own = {key: getattr(tower.config, key) for key in (*keys, *more)}
    return own | {"drop_path_rate": args["drop_path_rate"]}


def _swin_backbone(args: dict, side_px: int, tower: Any) -> tuple[SwinConfig, list[int], tuple[int, ...]]:
    """The config of a Swin, that of the tower where there is one, the channels of its maps, and their strides."""
    own = _swin_sizes(args, tower)
    strides = {own["patch_size"] << stage: stage for stage in range(len(own["depths"]))}  # the first is not halved yet
    if any(stride not in strides for stride in STRIDES["swin"]):
        raise SystemExit(f"--tower_name_or_path: this Swin has maps at strides {list(strides)}; 8 and 16 are needed")
    places = [strides[stride] for stride in STRIDES["swin"]]
    stages = [f"stage{place + 1}" for place in places]
    config = _swin_config(own, side_px, tower, stages)
    return config, [own["embed_dim"] << place for place in places], STRIDES["swin"]


def _swin_config(own: dict, side_px: int, tower: Any, stages: list[str]) -> SwinConfig:
    """own: see `_swin_sizes`. stages: whose maps are read."""
    known = {} if tower is None else tower.config.to_dict()
    return SwinConfig.from_dict(known | own | {"image_size": side_px, "out_features": stages, "out_indices": None})


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


def begin_as(model: Any, weights: dict[str, torch.Tensor] | None, folder: Path | None) -> None:
    """Load a tower's weights into the backbone, of which that may lack the last.

    Raises SystemExit where the tower lacks some.
    """
    backbone = backbone_of(model)
    assert backbone is not None
    if weights is None:
        # Grey is 0, and with the library's biases of 0 a grey patch is a token of zeros to a layer norm.
        patches = next(layer for layer in backbone.modules() if isinstance(layer, torch.nn.Conv2d))
        torch.nn.init.normal_(cast(torch.Tensor, patches.bias), std=0.1)
        return
    inside = next(getattr(backbone, name) for name in ("_backbone", "swin", "model") if hasattr(backbone, name))
    try:
        missing = inside.load_state_dict(weights, strict=False).missing_keys
    except RuntimeError as error:
        said = str(error).splitlines()[-1].strip()
        raise SystemExit(
            f"--tower_name_or_path {folder}: {said}; positions of a Swin are for one size: set --resolution to that"
        ) from None
    if missing := [name for name in missing if not name.endswith("relative_position_index")]:
        raise SystemExit(f"--tower_name_or_path {folder}: its weights lack {missing[0]}")


def backbone_of(model: Any) -> torch.nn.Module | None:
    """The backbone of a detector; None of one without."""
    if isinstance(model, rcnn.SwinMaskRCNN):
        return model.pyramid.encoder
    inner = getattr(model, "model", model)
    if hasattr(inner, "pixel_level_module"):
        return inner.pixel_level_module.encoder
    encoder = getattr(inner, "conv_encoder", getattr(inner, "backbone", None))
    return getattr(encoder, "model", encoder)


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


def learns_masks(cfg: DetectionConfig) -> bool:
    """Whether things need masks: a new model is to make them, or the one does that training goes on from.

    Raises SystemExit where that makes boxes alone, and masks are asked for; store.CheckpointError.
    """
    if not cfg.pretrained_model_name_or_path:
        return cfg.architecture != "deim"
    makes_masks = contract.load(cfg.base, device="cpu").makes_masks
    if cfg.architecture != "deim" and not makes_masks:
        raise SystemExit(
            f"--architecture {cfg.architecture}: {cfg.base} makes boxes alone; begin a new model with "
            "--tower_name_or_path"
        )
    return makes_masks


def describe_start(cfg: DetectionConfig) -> str:
    """What a model was before step 1, for its card."""
    if cfg.pretrained_model_name_or_path:
        return "fine-tuned"
    if cfg.tower_name_or_path:
        return f"its backbone began as {called(tower_folder(cfg.tower_name_or_path))}; the rest is trained from scratch"
    return "trained from scratch"
