"""The captioner that a training begins with: a new one, on a tower that comes trained, or that of a checkpoint."""

import copy
from collections.abc import Sequence

import torch
from PIL import Image
from transformers import BertConfig, BertLMHeadModel, PreTrainedModel, VisionEncoderDecoderModel, ViTImageProcessor

from hub_models import captioning as contract
from hub_models import clip
from hub_models.captioning.parts import grid_of
from training import beginnings, hybrid
from training.captioning.config import CaptioningConfig
from training.captioning.towers import POSITION_SCALE, scaled, tower
from training.config import require_resolution
from training.data.vocabulary import make_tokenizer, own_vocabulary


def create_captioner(cfg: CaptioningConfig, eye: clip.CLIP) -> contract.Captioner:
    """A captioner with the image tower and the vocabulary of a dual encoder, and a fresh decoder.

    Raises SystemExit where that has another kind of tower.
    """
    vision = tower(eye.model.vision_model, cfg.resolution, cfg.position_scale or POSITION_SCALE)
    tokenizer = copy.deepcopy(eye.tokenizer)
    tokenizer.model_max_length = cfg.max_length
    return assembled(cfg, vision, tokenizer, eye.image_processor.image_mean, eye.image_processor.image_std, framed=True)


def create_captioner_on_tower(cfg: CaptioningConfig, texts: Sequence[str]) -> contract.Captioner:
    """A captioner with a Swin or ViT, or a tower on another backbone of timm, a vocabulary of the texts, and a fresh
    decoder. In the last case it sees pictures squeezed into a square. Raises SystemExit for a backbone of another kind.
    """
    assert cfg.tower_name_or_path is not None
    folder = beginnings.tower_folder(cfg.tower_name_or_path)
    tokenizer = make_tokenizer(own_vocabulary(texts, cfg.vocabulary_size), cfg.max_length)
    if begun := beginnings.in_transformers(folder):
        vision = tower(begun.model, cfg.resolution, cfg.position_scale or POSITION_SCALE)
        return assembled(cfg, vision, tokenizer, begun.mean, begun.std, framed=True)
    vision = hybrid.hybrid_tower(folder, cfg.resolution, **cfg.tower_args)
    return assembled(cfg, vision, tokenizer, *hybrid.statistics(folder), framed=False)


def assembled(
    cfg: CaptioningConfig, vision: PreTrainedModel, tokenizer, mean, std, *, framed: bool
) -> contract.Captioner:
    """A tower, a fresh decoder and what they need beside."""
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    shape: dict = dict(cfg.decoder_args)
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=cfg.max_length, type_vocab_size=1, is_decoder=True,
        add_cross_attention=True, hidden_dropout_prob=cfg.dropout, attention_probs_dropout_prob=cfg.dropout,
        bos_token_id=tokenizer.bos_token_id if start is None else start, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id if end is None else end, **shape,
    )  # fmt: skip
    model = VisionEncoderDecoderModel(encoder=vision, decoder=BertLMHeadModel(config))
    model.config.decoder_start_token_id, model.config.pad_token_id = config.bos_token_id, config.pad_token_id
    processor = ViTImageProcessor(
        size={"height": cfg.resolution, "width": cfg.resolution},
        resample=Image.Resampling.BICUBIC,
        image_mean=list(mean),
        image_std=list(std),
    )
    return contract.Captioner(model, tokenizer, processor, name="in training", framed=framed)


def start_from(cfg: CaptioningConfig) -> contract.Captioner:
    """The captioner of a checkpoint, ready to train. Raises SystemExit where it doesn't go with the config."""
    served = contract.load(cfg.base, device="cpu")
    require_resolution(cfg, served.resolution_px)
    if cfg.cached_views and not isinstance(contract.decoder_of(served.model), BertLMHeadModel):
        raise SystemExit(
            f"--cached_views need a decoder of our kind, not that of a {served.kind}: set --cached_views 0"
        )
    served.model.requires_grad_(True)
    for part in contract.decoder_of(served.model).modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = cfg.dropout
    if cfg.position_scale:
        positions = getattr(getattr(contract.encoder_of(served.model), "embeddings", None), "position_embeddings", None)
        if positions is None:
            raise SystemExit(f"--position_scale: the tower of {cfg.pretrained_model_name_or_path} has no positions")
        positions.data = scaled(positions.data, cfg.position_scale)
    return served


@torch.no_grad()
def require_places(served: contract.Captioner) -> None:
    """Raise SystemExit where what the decoder attends to is no square of patches, as losses on places need it."""
    training = served.model.training
    served.model.eval()  # no dropout: nothing is drawn
    states = contract.encode(served.model, torch.zeros(1, 3, served.resolution_px, served.resolution_px)).shape[1]
    served.model.train(training)
    if grid_of(states) is None:
        raise SystemExit(
            f"this captioner attends to {states} states, which are no square of patches: set --place_weight 0 and "
            "--pointing_weight 0"
        )
