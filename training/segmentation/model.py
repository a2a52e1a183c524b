"""The segmenter that a training begins with: a new one, on a tower or without, or that of a checkpoint."""

from pathlib import Path
from typing import Any, cast

import segmentation_models_pytorch as smp
import torch
from transformers import (
    DPTConfig,
    DPTForSemanticSegmentation,
    SegformerImageProcessor,
    SwinConfig,
    TimmBackboneConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from hub_models import segmentation as contract
from hub_models import store
from training.beginnings import called, is_swin, is_timm, opened, swin_of
from training.beginnings import tower_folder as place_of
from training.config import require_resolution
from training.optim import parameter_groups
from training.segmentation.config import SIZES, SegmentationConfig
from training.task import some
from training.towers import as_transformers


def create_model(cfg: SegmentationConfig, label_names: list[str]) -> contract.Segmenter:
    """A fresh segmenter of the backbone a config names, with its image processor."""
    args: dict = SIZES[cfg.backbone] | cfg.model_args
    classes, side = len(label_names), cfg.resolution
    tower = tower_folder(cfg) if cfg.tower_name_or_path else None
    if cfg.backbone == "unet":
        model = _unet(args, classes, tower)
    elif cfg.backbone == "dpt":
        model = _dpt(args, classes, side, tower)
    elif tower and is_timm(tower) and not is_swin(tower):
        model = _timm(args, classes, tower)
    else:
        model = _swin(args, classes, side, tower)
    half = [0.5, 0.5, 0.5]
    processor = SegformerImageProcessor(size=stock_size(cfg), image_mean=half, image_std=half)
    own = {"resolution_px": side, "max_side_px": cfg.max_side_px or 2 * side}
    return contract.Segmenter(model, processor, label_names, name="in training", own=own)


def stock_size(cfg: SegmentationConfig) -> dict[str, int]:
    """The size that the image processor makes of a picture for whoever doesn't see it in tiles."""
    height, width = cfg.stock_size or (cfg.resolution, cfg.resolution)
    return {"height": height, "width": width}


# Grey is 0 to these models, and with the library's biases of 0 a grey patch is a token of zeros, at which a layer norm
# has a gradient of hundreds for 1; so the biases of the patches are drawn.
def _swin(args: dict, classes: int, side_px: int, tower: Path | None) -> UperNetForSemanticSegmentation:
    """tower: folder of a model whose Swin the backbone begins as; None = a fresh one of `args`."""
    args, begun = dict(args), swin_of(tower) if tower else None
    head: dict = {"hidden_size": args.pop("channels"), "pool_scales": list(args.pop("pool_scales"))}
    if begun is not None:
        args = begun.config.to_dict() | {"drop_path_rate": args["drop_path_rate"]}
    stages = [f"stage{number + 1}" for number in range(len(args["depths"]))]
    backbone = SwinConfig.from_dict(args | {"image_size": side_px, "out_features": stages, "out_indices": None})
    head |= {"backbone_config": backbone, "num_labels": classes}
    model = UperNetForSemanticSegmentation(UperNetConfig(use_auxiliary_head=False, **head))
    if begun is not None:
        try:
            model.backbone.swin.load_state_dict(begun.state_dict())
        except RuntimeError as error:
            said = str(error).splitlines()[-1].strip()
            raise SystemExit(
                f"--tower_name_or_path {tower}: {said}; its positions are for {begun.config.image_size} px"
                ": set --resolution to that"
            ) from None
        return model
    patches = next(layer for layer in model.backbone.modules() if isinstance(layer, torch.nn.Conv2d))
    torch.nn.init.normal_(patches.bias, std=0.1)
    return model


def _timm(args: dict, classes: int, folder: Path) -> UperNetForSemanticSegmentation:
    """A UPerNet on a trained backbone of timm: its maps at 1/4, 1/8, 1/16 and 1/32 of the picture."""
    tower, kind = _timm_tower(folder)
    strides = [entry["reduction"] for entry in cast(Any, tower).feature_info]
    if any(stride not in strides for stride in (4, 8, 16, 32)):
        raise SystemExit(
            f"--tower_name_or_path {folder}: {kind} has maps at strides {strides}; 4, 8, 16 and 32 are needed"
        )
    places = [strides.index(stride) for stride in (4, 8, 16, 32)]
    config = TimmBackboneConfig.from_dict({"backbone": kind, "out_indices": places})
    head: dict = {"hidden_size": args["channels"], "pool_scales": list(args["pool_scales"])}
    head |= {"backbone_config": config, "num_labels": classes}
    model = UperNetForSemanticSegmentation(UperNetConfig(use_auxiliary_head=False, **head))
    _begin_as(model.backbone._backbone, tower, folder, kind)
    return model


def _unet(args: dict, classes: int, tower: Path | None) -> smp.Unet:
    """tower: folder of a classifier of timm whose body the encoder begins as; None = a fresh one of `args`."""
    depth = len(args["decoder_channels"])
    if tower is None:
        return smp.Unet(encoder_weights=None, classes=classes, encoder_depth=depth, **args)
    begun, kind = _timm_tower(tower)
    args = args | {"encoder_name": f"tu-{kind}"}
    try:
        model = smp.Unet(encoder_weights=None, classes=classes, encoder_depth=depth, **args)
    except (RuntimeError, ValueError, AttributeError) as error:
        raise SystemExit(
            f"--tower_name_or_path {tower}: a U-Net can't have {kind} as its encoder ({store.one_line(error)}); it "
            "takes a network that halves its maps step by step"
        ) from None
    _begin_as(model.encoder.model, begun, tower, kind)
    return model


def _timm_tower(folder: Path) -> tuple[torch.nn.Module, str]:
    """The classifier of timm in a folder, and its architecture. Raises SystemExit for a folder of another library."""
    if not is_timm(folder):
        raise SystemExit(
            f"--tower_name_or_path {folder}: a U-Net and a DPT begin as a classifier of timm, which it isn't"
        )
    tower = opened(folder).model
    return tower, tower.pretrained_cfg["architecture"]


def _begin_as(backbone: torch.nn.Module, tower: torch.nn.Module, folder: Path, kind: str) -> None:
    """Load a tower's weights, of which the backbone may lack the last. Raises SystemExit where the tower lacks some."""
    try:
        missing = backbone.load_state_dict(tower.state_dict(), strict=False).missing_keys
    except RuntimeError as error:
        raise SystemExit(f"--tower_name_or_path {folder}: {str(error).splitlines()[-1].strip()}") from None
    if missing:
        raise SystemExit(f"--tower_name_or_path {folder}: its weights lack {missing[0]} of {kind}")


def _dpt(args: dict, classes: int, side_px: int, tower: Path | None = None) -> DPTForSemanticSegmentation:
    """Maps at 1/4, 1/8, 1/16 and 1/32 of the picture, as in Ranftl 2021, §3.1, from patches of any size.

    tower: folder of a ViT of timm that its ViT begins as; None = a fresh one of `args`.
    """
    args = args | {"num_labels": classes, "use_auxiliary_head": False}
    begun, weights = as_transformers(_timm_tower(tower)[0], side_px) if tower else ({}, {})
    args |= begun
    args.pop("image_size", None)
    factors = [args["patch_size"] / stride for stride in (4, 8, 16, 32)]
    factors = [int(factor) if factor >= 1 else factor for factor in factors]
    width = args.pop("channels")
    config = DPTConfig(image_size=side_px, reassemble_factors=factors, fusion_hidden_size=width, **args)
    model = DPTForSemanticSegmentation(config)
    if tower:
        model.dpt.load_state_dict(weights)
        return model
    embeddings = model.dpt.embeddings
    torch.nn.init.normal_(embeddings.get_parameter("patch_embeddings.projection.bias"), std=0.1)
    for positions in (embeddings.position_embeddings, embeddings.cls_token):  # zeros, by the library
        torch.nn.init.trunc_normal_(positions, std=0.02)
    return model


def tower_folder(cfg: SegmentationConfig) -> Path:
    """Where --tower_name_or_path lies. Raises store.CheckpointError."""
    assert cfg.tower_name_or_path is not None
    return place_of(cfg.tower_name_or_path)


def start_from(cfg: SegmentationConfig, label_names: list[str]) -> contract.Segmenter:
    """The segmenter of a checkpoint, ready to train on these classes; its class layer is made anew where they differ.

    Raises SystemExit where it can't take the resolution.
    """
    served = contract.load(cfg.base, device="cpu")
    model = served.model.requires_grad_(True)
    if getattr(model, "auxiliary_head", None) is not None:  # its loss isn't used here
        model.auxiliary_head, model.config.use_auxiliary_head = None, False
    if served.label_names != label_names:
        print(
            f"{cfg.pretrained_model_name_or_path} tells {len(served.label_names)} classes apart "
            f"({some(served.label_names)}), {cfg.dataset_name} has {len(label_names)} ({some(label_names)}): "
            "its class layer is made anew, all other weights are kept"
        )
        replace_class_layer(model, label_names)
    processor, side = served.processor, cfg.resolution
    if side != served.resolution_px and served.kind == "dpt":
        require_resolution(cfg, served.resolution_px)
    if side != served.resolution_px or cfg.stock_size:
        settings = {
            key: value for key, value in processor.to_dict().items() if key not in ("crop_size", "do_center_crop")
        }
        processor = type(processor).from_dict(settings | {"size": stock_size(cfg)})
    own = {"resolution_px": side, "max_side_px": cfg.max_side_px or 2 * side}
    if served.label_names == label_names:
        own["palette"] = served.palette.tolist()
    return contract.Segmenter(model, processor, label_names, name="in training", own=own)


def replace_class_layer(model: contract.Stock, label_names: list[str]) -> None:
    """Put a fresh layer of len(label_names) outputs in the place of a segmenter's last, and say so in its config."""
    layer = contract.class_layer(model)
    name = next(name for name, module in model.named_modules() if module is layer)
    has_bias = layer.bias is not None
    if isinstance(layer, torch.nn.Linear):
        fresh = torch.nn.Linear(layer.in_features, len(label_names), has_bias)
    else:
        shape = layer.kernel_size, layer.stride, layer.padding, layer.dilation
        fresh = torch.nn.Conv2d(layer.in_channels, len(label_names), *shape, bias=has_bias)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, fresh)
    if isinstance(model.config, dict):
        model.config["classes"] = len(label_names)
    else:
        model.config.id2label = dict(enumerate(label_names))
        model.config.label2id = {label: k for k, label in enumerate(label_names)}


def slower_base(model: contract.Stock, cfg: SegmentationConfig) -> list[dict]:
    """The optimiser's groups; what isn't new learns slower by base_lr_scale: see there."""
    if cfg.tower_name_or_path:
        base = {id(p) for p in begun_part(model).parameters()}
    else:
        base = {id(p) for p in model.parameters()} - {id(p) for p in contract.class_layer(model).parameters()}
    groups = []
    for group in parameter_groups(model, cfg):
        for part, scale in ((True, cfg.base_lr_scale), (False, 1.0)):
            chosen = [p for p in group["params"] if (id(p) in base) == part]
            if chosen:
                groups.append(group | {"params": chosen, "lr_scale": scale})
    return groups


def begun_part(model: contract.Stock) -> torch.nn.Module:
    """The part of a segmenter that may begin as a tower; norms after a Swin are new."""
    if isinstance(model, smp.Unet):
        return model.encoder
    return (
        model.dpt if isinstance(model, DPTForSemanticSegmentation) else getattr(model.backbone, "swin", model.backbone)
    )


def describe_start(cfg: SegmentationConfig) -> str:
    """What a model was before step 1, for its card."""
    if cfg.pretrained_model_name_or_path:
        return "fine-tuned"
    if cfg.tower_name_or_path:
        folder = tower_folder(cfg)
        return f"its backbone began as {called(folder)}; the rest is trained from scratch"
    return "trained from scratch"
