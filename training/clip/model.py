"""The dual encoder that a training begins with: a new one, or that of a checkpoint."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import (
    SwinConfig,
    SwinModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from hub_models import clip as contract
from training import beginnings, hybrid
from training.clip.config import CLIPConfig
from training.config import require_resolution
from training.data import vocabulary


def create_clip(cfg: CLIPConfig, texts: Sequence[str]) -> contract.CLIP:
    """A fresh dual encoder whose vocabulary knows the texts. Raises VocabularyError where MiniLM can't be had."""
    if cfg.text == "minilm":
        folder = vocabulary.fetch(source_dir=cfg.source_dir)
        pieces = vocabulary.cut_vocabulary(vocabulary.read_vocabulary(folder), texts, cfg.vocabulary_size)
        text = vocabulary.text_tower(folder, pieces, cfg.text_layers, cfg.max_length)
    else:
        pieces = vocabulary.own_vocabulary(texts, cfg.vocabulary_size)
        text = vocabulary.new_text_tower(len(pieces), cfg.text_layers, cfg.max_length, **cfg.text_args)
    if cfg.tower_name_or_path:
        folder = beginnings.tower_folder(cfg.tower_name_or_path)
        if begun := beginnings.in_transformers(folder):
            if begun.side_px != cfg.resolution:
                raise SystemExit(f"--tower_name_or_path {folder} takes {begun.side_px} px: set --resolution")
            return assembled(cfg, begun.model, text, pieces, begun.mean, begun.std)
        vision = hybrid.hybrid_tower(folder, cfg.resolution, **cfg.tower_args)
        return assembled(cfg, vision, text, pieces, *hybrid.statistics(folder), framed=False)
    args: dict[str, Any] = {"image_size": cfg.resolution, **cfg.vision_args}
    vision = SwinModel(SwinConfig(**args)) if cfg.vision == "swin" else ViTModel(ViTConfig(**args))
    if cfg.vision == "swin":
        # Grey is 0 to the model, and with the library's biases of 0 a grey patch is a token of zeros, at which a layer
        # norm has a gradient of 300 for 1: one grey square made the gradient of the whole model 10,000 times larger.
        torch.nn.init.normal_(vision.get_parameter("embeddings.patch_embeddings.projection.bias"), std=0.1)
    return assembled(cfg, vision, text, pieces, (0.5,) * 3, (0.5,) * 3)


def assembled(cfg: CLIPConfig, vision, text, pieces: Sequence[str], mean, std, *, framed: bool = True) -> contract.CLIP:
    """Two towers, fresh projections and what they need beside."""
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision.config, text.config, projection_dim=cfg.projection_dim
    )
    model = VisionTextDualEncoderModel(config, vision_model=vision, text_model=text)
    processor = ViTImageProcessor(size={"height": cfg.resolution, "width": cfg.resolution}, image_mean=list(mean),
                                  image_std=list(std), resample=Image.Resampling.BICUBIC)  # fmt: skip
    tokenizer = vocabulary.make_tokenizer(pieces, cfg.max_length)
    return contract.CLIP(model, tokenizer, processor, name="in training", weights_sha256="", framed=framed)


def start_from(cfg: CLIPConfig) -> contract.CLIP:
    """The dual encoder of a checkpoint, ready to train. Raises SystemExit where it takes another resolution."""
    served = contract.load(cfg.base, device="cpu")
    require_resolution(cfg, served.resolution_px)
    served.model.requires_grad_(True).train()
    return served
