"""Captions of pictures: the image tower of a dual encoder, and a small decoder that attends to its patches.

    python -m training.captioning --output_dir runs/captioning --mixed_precision bf16   # single emoji and scenes, one model
    python -m training.captioning --preset photo --output_dir runs/photo --mixed_precision bf16     # photographs, then:
    python -m training.captioning --preset photo-cider --pretrained_model_name_or_path runs/photo/export --output_dir runs/cider
    python -m training.captioning --preset finetune --dataset_name my_pictures --output_dir runs/mine \
        --pretrained_model_name_or_path emoji                   # or any VisionEncoderDecoderModel, or BLIP, of the Hub

Cost and scores of the shipped weights stand in their card (hub_models/weights/captioning/emoji/README.md).

Photographs begin as a backbone of timm (training/hybrid.py) whose first stages see them once (training/data/views.py); captions
that are drawn and scored come last (training/self_critical.py).

Vinyals et al. 2015 (Show and Tell), Xu et al. 2015 (attention), Vaswani et al. 2017, Szegedy et al. 2016 (label smoothing),
Vedantam et al. 2015 (CIDEr), Papineni et al. 2002 (BLEU).

Letters: B samples, R side in pixels, L tokens, V pieces of the vocabulary, S states of the encoder, h × w patches,
D width of the tower.
"""

import copy
import dataclasses
import functools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from transformers import (
    BertConfig,
    BertLMHeadModel,
    PreTrainedModel,
    VisionEncoderDecoderModel,
    ViTImageProcessor,
)

from hub_models import captioning as contract
from hub_models import clip
from hub_models.captioning.parts import grid_of, show_attention
from hub_models.pictures import WHITE, frame
from training import hybrid, metrics, publish
from training.config import TrainConfig, parse
from training.data.art import inked, on_ground, recoloured
from training.data.captions import MOST_SAID, Captions, core, largest, scene_caption, spoken
from training.data.facts import facts_of
from training.data.scenes import SOLID, Scene, SceneObject, Scenes
from training.data.sources import Source, open_source
from training.data.views import ViewedPictures, Views
from training.data.vocabulary import make_tokenizer, own_vocabulary
from training.layouts import layout_scores
from training.loop import fit
from training.nouns import nouns_of, share_right
from training.optim import Player, parameter_groups
from training.packed import Packed, packed_logits, packed_loss
from training.self_critical import Rewards, self_critical_loss
from training.towers import POSITION_SCALE, scaled, tower

STEM = "captioning"
SCENES_MEASURED = 500  # of each set, by `evaluate_checkpoint`
MASK_SIDE = 16  # cells a side of what is known of where things are
BEAMS = 3  # of captions that are searched for
NEVER = 2**62  # forward passes
HOG_PX = 64  # side of the pictures that the nearest neighbour is looked for among


@dataclass(frozen=True)
class CaptioningConfig(TrainConfig):
    """One captioning experiment."""

    pretrained_model_name_or_path: str | None = None  # bundled variant, folder or Hub id of a captioner to start from
    caption_column: str | None = None  # column that holds the captions; None = "text" or "name"
    # The model, when it is a new one
    clip_name_or_path: str = "emoji"  # whose image tower and vocabulary it gets: bundled variant, folder or Hub id
    tower_name_or_path: str | None = None  # instead, a backbone of timm: bundled classifier, folder or Hub id
    tower_args: dict[str, int] = dataclasses.field(default_factory=dict)  # of that tower's DPTConfig: its ViT layers
    vocabulary_size: int = 4000  # pieces, where there is no dual encoder to take them from
    decoder_args: dict[str, int] = dataclasses.field(default_factory=dict)  # of its BertConfig
    max_length: int = 64  # tokens of a caption
    dropout: float = 0.1  # in the decoder
    position_scale: float | None = None  # deviation the tower's positions begin with; None = 0.3 if they are new
    # Data: captions of scenes say what is where. Only for emoji
    scenes: float = 0.5  # share of the samples that are painted scenes, the rest are single pictures
    train_scenes: int = 200_000  # how many different ones
    scene_objects: int = MOST_SAID  # at most so many things in one
    object_ink: float = 0.15  # share of the objects, and of the single pictures, whose edges are inked
    object_color: float = 0.2  # how far colours of single objects change, in [0, 1]
    # Training
    cached_views: int = (
        0  # the first stages of a timm backbone see so many views of each picture, once; 0 = every time anew
    )
    captions_each: int = 1  # captions of a picture that are learnt at once, where there are views
    drawn_captions: int = 0  # captions drawn of each picture, to learn from their CIDEr-D instead; 0 = cross-entropy
    draw_temperature: float = 0.5  # at which they are drawn
    unfreeze_step: int | None = (
        1000  # from this optimiser step on what of the tower isn't new learns, too; None = never
    )
    tower_lr_scale: float = 0.2  # its learning rate, as a factor
    label_smoothing: float = 0.1
    relation_weight: float = 1.0  # of the words of a caption that say where: left, right, above, below, front, behind
    pointing_weight: float = 0.0  # of `pointing_loss`: the words for a thing should attend to where it is
    place_weight: float = 0.0  # of `place_loss`: a linear layer should tell each patch's row and column from its state
    # Augmentation
    zoom: tuple[float, float] = (0.5, 1.05)  # range of a single picture's side, as a share of what the model sees
    rotation_deg: float = 10.0  # up to so much either way
    ground_share: float = 0.4  # single pictures on a colour instead of white
    color_jitter: float = 0.15  # brightness, contrast and saturation change by up to this share, hue by a third of it
    # Evaluation while training
    validation_pictures: int = 200  # how many of each set are measured

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.scenes <= 1:
            raise ValueError(f"--scenes is a share in [0, 1], got {self.scenes}")
        if not 1 <= self.scene_objects <= MOST_SAID:
            raise ValueError(
                f"--scene_objects must lie in [1, {MOST_SAID}]: captions name no more, got {self.scene_objects}"
            )
        if self.max_length < 4:
            raise ValueError(f"--max_length must be at least 4, got {self.max_length}")
        for name in ("relation_weight", "pointing_weight", "place_weight"):
            if not 0 <= (weight := getattr(self, name)) < math.inf:
                raise ValueError(f"--{name} must be 0 or more, got {weight}")
        if self.drawn_captions and (self.drawn_captions < 2 or not self.cached_views):
            raise ValueError(
                "--drawn_captions must be 2 or more, each is compared with the others; and it needs --cached_views"
            )
        if not 0.05 <= self.draw_temperature <= 2:
            raise ValueError(f"--draw_temperature must lie in [0.05, 2], got {self.draw_temperature}")
        if self.position_scale is not None and not 0 < self.position_scale < math.inf:
            raise ValueError(f"--position_scale must be more than 0, got {self.position_scale}")


EMOJI = CaptioningConfig(
    output_dir="runs/captioning", resolution=128, train_batch_size=64, learning_rate=1e-3, lr_warmup_steps=300,
    adam_beta2=0.98, adam_weight_decay=0.05, ema_decay=0.999, max_train_steps=20_000, checkpointing_steps=250,
    validation_steps=1000, relation_weight=3.0, place_weight=1.0, pointing_weight=0.5,
    decoder_args={"hidden_size": 224, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 640},
)  # fmt: skip
PHOTO = dataclasses.replace(
    EMOJI, dataset_name="build/data/flickr8k", tower_name_or_path="photo", resolution=224, train_batch_size=32, optimizer="muon",
    learning_rate=3e-3, lr_warmup_steps=50, adam_weight_decay=0.05, ema_decay=0.99, max_train_steps=700, validation_steps=100,
    scenes=0.0, object_ink=0.0, relation_weight=1.0, place_weight=0.0, pointing_weight=0.0, unfreeze_step=None, cached_views=3,
    captions_each=5, max_length=40, dropout=0.0, zoom=(1.0, 1.1), rotation_deg=0.0, ground_share=0.0,
    tower_args={"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 768},
    decoder_args={"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 1024},
)  # fmt: skip
PRESETS = {
    "emoji": EMOJI,
    "finetune": dataclasses.replace(
        EMOJI, pretrained_model_name_or_path="emoji", dataset_name="path/to/captioned/pictures", train_batch_size=16,
        learning_rate=1e-4, max_train_steps=1000, lr_warmup_steps=50, ema_decay=0.99, validation_steps=250, scenes=0.0,
        object_ink=0.0, relation_weight=1.0, place_weight=0.0, pointing_weight=0.0, unfreeze_step=200, zoom=(0.9, 1.1),
        rotation_deg=3.0, ground_share=0.0, color_jitter=0.1,
    ),
    "photo": PHOTO,
    "photo-cider": dataclasses.replace(
        PHOTO, pretrained_model_name_or_path="path/to/run/export", drawn_captions=5, max_length=22, learning_rate=1.5e-4,
        lr_warmup_steps=10, adam_weight_decay=0.0, ema_decay=0.97, max_train_steps=250, validation_steps=50,
    ),
    "tiny": dataclasses.replace(
        EMOJI, dataset_name="emoji-sample", resolution=32, max_train_steps=2, train_batch_size=4, lr_warmup_steps=1,
        checkpointing_steps=1, validation_steps=2, logging_steps=1, train_scenes=50, validation_pictures=2,
        max_length=24, unfreeze_step=1,
        decoder_args={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48},
    ),
}  # fmt: skip


class CaptionedPictures:
    """Training samples of single pictures, and of scenes if there are any.

    {"pixels": (3, R, R) normalised, "caption": text, "names": what it names, as it is said there, in lines, "cells":
    (MOST_SAID, MASK_SIDE, MASK_SIDE) how much of each cell each of these covers, in [0, 1]}. See `training.order.Samples`.
    """

    def __init__(self, source: Source, scenes: Scenes | None, cfg: CaptioningConfig, served: contract.Captioner):
        self.source, self.scenes, self.cfg, self.served = source, scenes, cfg, served
        self.captions = Captions(source)
        self.data_hash = source.data_hash + (scenes.data_hash if scenes else "")
        source.preload(served.resolution_px)

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        cfg, rng = self.cfg, random.Random(int(torch.randint(2**62, (), generator=draw)))
        if self.scenes is not None and rng.random() < cfg.scenes:
            scene = self.scenes.scene(rng.randrange(len(self.scenes)))
            picture, caption = scene.image, scene_caption(scene.objects, rng)
            told = largest(scene.objects)
            names, masks = [spoken(one.name) for one in told], [seen_of(scene, one) for one in told]
        else:
            picture, mask = placed(self.source.picture(index), self.served.resolution_px, cfg, rng)
            caption = self.captions.describe(index, rng.getrandbits(62))
            names, masks = [self.captions.plain(index)], [mask]
        if cfg.color_jitter:
            picture = recoloured(picture, cfg.color_jitter, rng)
        cells = torch.zeros(MOST_SAID, MASK_SIDE, MASK_SIDE)
        for n, mask in enumerate(masks):
            cells[n] = F.adaptive_avg_pool2d(torch.from_numpy(mask)[None].float(), MASK_SIDE)[0]
        pixels = self.served.pixel_values([picture])[0]
        return {"pixels": pixels, "caption": caption, "names": "\n".join(names), "cells": cells}


def seen_of(scene: Scene, one: SceneObject) -> np.ndarray:
    """Where an object of a scene is seen, bool (R, R): the pixels of its class within its box."""
    left, top, right, bottom = one.box
    seen = np.zeros(scene.mask.shape, bool)
    seen[top:bottom, left:right] = scene.mask[top:bottom, left:right] == one.label
    return seen


def placed(art: Image.Image, side_px: int, cfg: CaptioningConfig, rng: random.Random) -> tuple[Image.Image, np.ndarray]:
    """A single picture somewhere on a ground of side_px, RGB, and where it is solid, bool (side_px, side_px).

    It is zoomed, turned, perhaps inked; most of it is in sight.
    """
    if cfg.object_ink and rng.random() < cfg.object_ink:
        art = inked(art, rng)
    side = max(1, round(rng.uniform(*cfg.zoom) * side_px))
    art = art.convert("RGBA").resize((side, side), Image.Resampling.BICUBIC)
    if cfg.rotation_deg:
        art = art.rotate(rng.uniform(-cfg.rotation_deg, cfg.rotation_deg), Image.Resampling.BICUBIC)
    colour = tuple(rng.randrange(256) for _ in range(3)) if rng.random() < cfg.ground_share else WHITE
    whole = Image.new("RGBA", (side_px, side_px))
    room = side_px - side
    whole.paste(art, tuple(rng.randint(min(0, room), max(0, room)) for _ in range(2)))
    return on_ground(whole, colour), np.asarray(whole.getchannel("A")) >= SOLID


# --- The loss --------------------------------------------------------------------------------------------------------


class Trainee(torch.nn.Module):
    """The captioner's model, and how many forward passes it was trained for: before so many, its tower is frozen.

    points: whether it also returns what its words attend to. places: whether it has a linear layer (D → 2) beside it, that
    has to tell where in the picture a state comes from. A tower that learned to name things forgets that on the way to its
    last states, and captions said left or right by chance (docs/LOG.md). The layer isn't exported.
    maps: whether what it gets of pictures are maps of the tower's first stages, which then stay as they are.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        frozen_passes: int,
        *,
        places: bool = False,
        points: bool = False,
        maps: bool = False,
    ):
        super().__init__()
        self.captioner, self.frozen_passes, self.points, self.maps = model, frozen_passes, points, maps
        passes = torch.zeros((), dtype=torch.int64)
        self.register_buffer("passes", passes)  # in the checkpoint, so that a resume is exact
        self.places = torch.nn.Linear(contract.encoder_of(model).config.hidden_size, 2) if places else None

    def train(self, mode: bool = True):
        super().train(mode)
        hybrid.keep_statistics(contract.encoder_of(self.captioner))
        return self

    def forward(self, pixels: torch.Tensor, ids: torch.Tensor | Packed | Callable[[torch.Tensor], Packed]) -> dict:
        """Scores "logits" (B, L, V) of the token after each of ids (B, L), for pictures (B, 3, R, R), or their maps; perhaps
        "places", the `place_loss`, and "attention", (B, heads, L, S) of each decoder layer. Where ids are a function, it draws
        them given the states (B, S, C), and they are "drawn". Of packed ones logits are (n, V): of the places that count."""
        frozen = bool(self.passes < self.frozen_passes)
        if self.training:
            self.passes += 1
        if self.maps:
            raw = hybrid.tower_from_maps(contract.encoder_of(self.captioner), pixels, frozen=frozen).last_hidden_state
        else:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
                raw = contract.encode(self.captioner, pixels)
        # Nothing, but of every parameter: several processes wait for a gradient of each. One of 0, without weight decay,
        # leaves the tower as it is under either optimiser.
        raw = raw + 0.0 * sum(p.sum() for p in contract.encoder_of(self.captioner).parameters())
        states, found = contract.attended(self.captioner, raw), {}
        if callable(ids):
            ids = found["drawn"] = ids(states.detach())
        if isinstance(ids, Packed):
            return found | {"logits": packed_logits(contract.decoder_of(self.captioner), states, ids)}
        out = contract.decode(self.captioner, states, ids, use_cache=False, output_attentions=self.points)
        found["logits"] = out.logits
        if self.points:
            found["attention"] = out.cross_attentions
        if self.places is not None:
            found["places"] = place_loss(self.places(raw))
        return found

    def state_dict(self, *args, **kwargs) -> dict:
        """Each tensor once: input and output embeddings are one, and safetensors refuses to write that twice."""
        once = {name for name, _ in [*self.named_parameters(), *self.named_buffers()]}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in once}

    def load_state_dict(self, state_dict, strict: bool = True, assign: bool = False):
        """As of any module; what is tied to something else is not missing."""
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        if lacking := [*(set(found.missing_keys) & set(self.state_dict())), *found.unexpected_keys]:
            raise RuntimeError(f"the checkpoint belongs to another model: {sorted(lacking)[0]} is missing or unknown")
        return found


def place_loss(told: torch.Tensor) -> torch.Tensor:
    """Mean squared error of column and row (B, S, 2) told of each of h · w patches, where -1 and 1 are the edges.

    0.67 for who always says the middle. Class tokens before the patches have no place.
    """
    rows, columns = grid_of(told.shape[1])
    y, x = ((torch.arange(count, device=told.device) + 0.5) / count * 2 - 1 for count in (rows, columns))
    true = torch.stack([x.repeat(rows), y.repeat_interleave(columns)], -1)  # (h · w, 2)
    return 2 * F.mse_loss(told[:, -rows * columns :].float(), true.expand(len(told), -1, -1))


def pointing_loss(
    attention: Sequence[torch.Tensor], spans: Sequence[tuple[int, int, slice]], cells: torch.Tensor
) -> torch.Tensor:
    """-log of the attention that the words for a thing pay to the patches where it is, mean over words and layers.

    After the supervised attention of Liu et al. 2017 (Attention correctness in neural image captioning), who ask a single
    attention for a distribution over the region; here how it is shared out within the thing is left open, and so is the
    other half of the heads. attention: (B, heads, L, S) of each layer. spans: caption, thing and its tokens. cells: see
    `CaptionedPictures`; a thing is in the patches that it covers at least a quarter as much as the one it covers most.
    """
    if not spans:
        return attention[0].new_zeros(())
    rows, columns = grid_of(attention[0].shape[-1])
    covered = F.adaptive_avg_pool2d(cells, (rows, columns)).flatten(2)  # (B, things, h · w)
    inside = (covered > 0) & (covered >= covered.amax(-1, keepdim=True) / 4)
    steps = [(picture, thing, at) for picture, thing, place in spans for at in range(place.start, place.stop)]
    picture, thing, at = torch.tensor(steps, device=cells.device).T
    losses = []
    for layer in attention:
        asked = layer[:, : -(-layer.shape[1] // 2), :, -rows * columns :]  # (B, half of the heads, L, h · w)
        mass = (asked[picture, :, at].float().mean(1) * inside[picture, thing]).sum(-1)  # (words,)
        losses.append(-mass.clamp(min=1e-4).log().mean())
    return torch.stack(losses).mean()


def named_at(served: contract.Captioner, ids: torch.Tensor, names: Sequence[str]) -> list[tuple[int, int, slice]]:
    """Where captions, ids (B, L) with their start, speak of things: caption, thing (a line of its names), and its tokens.

    These are its name and what follows up to the next one: of what is said where, the thing named last is meant.
    """
    found = []
    for number, (row, lines) in enumerate(zip(ids.tolist(), names, strict=True)):
        starts = {}
        for thing, name in enumerate(lines.split("\n")):
            sought = served.sequences([name])[0][0, 1:-1].tolist()
            places = (at for at in range(len(row) - len(sought)) if sought and row[at : at + len(sought)] == sought)
            if (start := next(places, None)) is not None:
                starts[start] = thing
        end = row.index(served.end_id) if served.end_id in row else len(row) - 1
        stops = [*sorted(starts), end][1:]
        found += [
            (number, starts[start], slice(start, stop)) for start, stop in zip(sorted(starts), stops, strict=True)
        ]
    return found


def training_loss(model: torch.nn.Module, batch: dict, served: contract.Captioner, cfg: CaptioningConfig):
    """Cross-entropy of each token given the picture and the tokens before it, with label smoothing; and without.

    Teacher forcing (Williams & Zipser 1989). Padding counts nothing, and words that say where count cfg.relation_weight
    times; with a cfg.place_weight `place_loss` comes on top, with a cfg.pointing_weight `pointing_loss`. Also each part,
    and the cross-entropy of the words that say where.
    """
    pixels = batch["pixels"]
    ids, real = (part.to(pixels.device) for part in served.sequences(batch["caption"]))  # (B, L)
    out = model(pixels, ids[:, :-1])
    logits = out["logits"]
    with torch.autocast(pixels.device.type, enabled=False):
        logits, wanted = logits.float().flatten(0, 1), ids[:, 1:].masked_fill(~real[:, 1:], -100).flatten()
        counted = wanted != -100
        where = torch.isin(wanted, torch.tensor(where_ids(served.tokenizer), device=wanted.device))
        each = F.cross_entropy(logits, wanted, ignore_index=-100, label_smoothing=cfg.label_smoothing, reduction="none")
        loss = (each * torch.where(where, cfg.relation_weight, 1.0)).sum() / counted.sum()
        with torch.no_grad():
            plain = F.cross_entropy(logits, wanted, ignore_index=-100, reduction="none")
            told = {
                "cross_entropy": plain.sum() / counted.sum(),
                "token_accuracy": (logits.argmax(-1) == wanted).sum() / counted.sum(),
                "where": plain[where].sum() / where.sum().clamp(min=1),
            }
        if cfg.place_weight:
            loss, told["places"] = loss + cfg.place_weight * out["places"], out["places"].detach()
        if cfg.pointing_weight:
            points = pointing_loss(out["attention"], named_at(served, ids, batch["names"]), batch["cells"])
            loss, told["points"] = loss + cfg.pointing_weight * points, points.detach()
    return loss, told


def where_ids(tokenizer) -> list[int]:
    """The tokens by which one relation differs from another, as far as the vocabulary has them as one."""
    ids = tokenizer.convert_tokens_to_ids(["left", "right", "above", "below", "front", "behind"])
    return [token for token in ids if token is not None and token != tokenizer.unk_token_id]


# --- The model -------------------------------------------------------------------------------------------------------


def create_captioner(cfg: CaptioningConfig, eye: clip.CLIP) -> contract.Captioner:
    """A captioner with the image tower and the vocabulary of a dual encoder, and a fresh decoder.

    Raises SystemExit where that has another kind of tower.
    """
    vision = tower(eye.model.vision_model, cfg.resolution, cfg.position_scale or POSITION_SCALE)
    tokenizer = copy.deepcopy(eye.tokenizer)
    tokenizer.model_max_length = cfg.max_length
    return assembled(cfg, vision, tokenizer, eye.image_processor.image_mean, eye.image_processor.image_std, framed=True)


def create_photo_captioner(cfg: CaptioningConfig, texts: Sequence[str]) -> contract.Captioner:
    """A captioner with a tower on a backbone of timm, a vocabulary of the texts, and a fresh decoder. It sees pictures
    squeezed into a square. Raises SystemExit where the backbone is of another kind."""
    folder = hybrid.tower_folder(cfg.tower_name_or_path)
    tokenizer = make_tokenizer(own_vocabulary(texts, cfg.vocabulary_size), cfg.max_length)
    vision = hybrid.hybrid_tower(folder, cfg.resolution, **cfg.tower_args)
    return assembled(cfg, vision, tokenizer, *hybrid.statistics(folder), framed=False)


def assembled(
    cfg: CaptioningConfig, vision: PreTrainedModel, tokenizer, mean, std, *, framed: bool
) -> contract.Captioner:
    """A tower, a fresh decoder and what they need beside."""
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=cfg.max_length, type_vocab_size=1, is_decoder=True,
        add_cross_attention=True, hidden_dropout_prob=cfg.dropout, attention_probs_dropout_prob=cfg.dropout,
        bos_token_id=tokenizer.bos_token_id if start is None else start, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id if end is None else end, **cfg.decoder_args,
    )  # fmt: skip
    model = VisionEncoderDecoderModel(encoder=vision, decoder=BertLMHeadModel(config))
    model.config.decoder_start_token_id, model.config.pad_token_id = config.bos_token_id, config.pad_token_id
    processor = ViTImageProcessor(
        size={"height": cfg.resolution, "width": cfg.resolution}, resample=Image.Resampling.BICUBIC,
        image_mean=list(mean), image_std=list(std),
    )  # fmt: skip
    return contract.Captioner(model, tokenizer, processor, name="in training", framed=framed)


def start_from(cfg: CaptioningConfig) -> contract.Captioner:
    """The captioner of a checkpoint, ready to train. Raises SystemExit where it takes another resolution."""
    served = contract.load(cfg.pretrained_model_name_or_path, device="cpu")
    if served.resolution_px != cfg.resolution:
        raise SystemExit(
            f"{cfg.pretrained_model_name_or_path} sees {served.resolution_px} px: set --resolution to that"
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


def viewed(source: Source, served: contract.Captioner, cfg: CaptioningConfig) -> ViewedPictures:
    """The samples of cfg.cached_views. Raises SystemExit where the captioner has no backbone of timm."""
    encoder = contract.encoder_of(served.model)
    if not hybrid.is_hybrid(encoder) or not isinstance(contract.decoder_of(served.model), BertLMHeadModel):
        raise SystemExit(
            f"--cached_views needs a tower on a backbone of timm, not a {served.kind}: set --tower_name_or_path, or --cached_views 0"
        )
    return ViewedPictures(
        Views(source, encoder, served.pixel_values, cfg.cached_views), Captions(source), cfg.captions_each
    )


@torch.no_grad()
def require_places(served: contract.Captioner) -> None:
    """Raise SystemExit where what the decoder attends to is no square of patches: the losses on places need to know it."""
    training = served.model.training
    served.model.eval()  # no dropout: nothing is drawn
    states = contract.encode(served.model, torch.zeros(1, 3, served.resolution_px, served.resolution_px)).shape[1]
    served.model.train(training)
    if grid_of(states) is None:
        raise SystemExit(
            f"this captioner attends to {states} states, which are no square of patches: set --place_weight 0 and "
            "--pointing_weight 0"
        )


def tower_groups(model: Trainee, cfg: CaptioningConfig) -> list[dict]:
    """The optimiser's groups; the tower learns slower, and without weight decay (see `Trainee.forward`)."""
    slow = parameter_groups(hybrid.trained_part(contract.encoder_of(model.captioner)), cfg)
    taken = {id(p) for group in slow for p in group["params"]}
    groups = parameter_groups(model, cfg)
    for group in groups:
        group["params"] = [p for p in group["params"] if id(p) not in taken]
    groups += [group | {"lr_scale": cfg.tower_lr_scale, "weight_decay": 0.0} for group in slow]
    return [group for group in groups if group["params"]]


def main(argv: list[str] | None = None) -> None:
    cfg = parse(PRESETS, argv, description=__doc__)
    columns = {"dataset_config_name": cfg.dataset_config_name, "image_column": cfg.image_column,
               "caption_column": cfg.caption_column}  # fmt: skip
    emoji = cfg.dataset_name in ("emoji", "emoji-sample")
    train = open_source(cfg.dataset_name, split="train", skin_tones=cfg.skin_tones, **columns)
    held_out = open_source(cfg.dataset_name, split="heldout_pairs" if emoji else "validation", **columns)
    torch.manual_seed(cfg.seed)
    if cfg.pretrained_model_name_or_path:
        served = start_from(cfg)
    elif cfg.tower_name_or_path:
        served = create_photo_captioner(cfg, Captions(train).words())
    else:
        served = create_captioner(cfg, clip.load(cfg.clip_name_or_path, device="cpu"))
    painted = {
        "dataset_name": cfg.dataset_name,
        "resolution_px": served.resolution_px,
        "max_objects": cfg.scene_objects,
    }
    scenes = new_scenes = None
    if emoji and cfg.scenes:
        scenes = Scenes("train", length=cfg.train_scenes, ink=cfg.object_ink, colour=cfg.object_color, **painted)
        new_scenes = Scenes("new_scenes", length=cfg.validation_pictures, **painted)
    rewards = Rewards(Captions(train)) if cfg.drawn_captions else None
    if cfg.cached_views:
        samples = viewed(train, served, cfg)
    else:
        samples = CaptionedPictures(train, scenes, cfg, served)
    if cfg.place_weight or cfg.pointing_weight:
        require_places(served)
    if cfg.cached_views:
        hybrid.fix(contract.encoder_of(served.model), late=cfg.unfreeze_step is None)
    frozen = NEVER if cfg.unfreeze_step is None else cfg.unfreeze_step * cfg.gradient_accumulation_steps
    trainee = Trainee(served.model, frozen, places=cfg.place_weight > 0,
                      points=cfg.pointing_weight > 0, maps=cfg.cached_views > 0)  # fmt: skip
    if cfg.pointing_weight:
        show_attention(served.model)

    def loss_fn(model, batch):
        if rewards is not None:
            return self_critical_loss(
                model, batch, served, rewards, cfg.drawn_captions, cfg.max_length - 1, cfg.draw_temperature
            )
        if cfg.cached_views:
            return packed_loss(model, batch, served, cfg.label_smoothing)
        return training_loss(model, batch, served, cfg)

    def evaluate(_model):  # `served` holds it
        rows = evenly(len(held_out), cfg.validation_pictures)
        measured = picture_scores(served, held_out, rows, exact=emoji)[0]
        if new_scenes is not None:
            measured |= {f"scenes/{key}": value for key, value in scene_scores(served, new_scenes, {})[0].items()}
        return measured

    def export(model, folder, run):
        facts = run | describe(cfg, train, served, argv)
        return publish.write_export(folder, lambda target: contract.save_folder(target, served), facts)

    player = Player(trainee, loss_fn, tower_groups(trainee, cfg))
    fit([player], samples, cfg, run_dir=cfg.output_dir, evaluate=evaluate, export=export,
        draw_samples=lambda _model: sheet_of(served, held_out, new_scenes))  # fmt: skip
    if cfg.push_to_hub:
        publish.push_export(Path(cfg.output_dir, "export"), cfg.hub_model_id, private=cfg.hub_private)


# --- What is measured and said of it ---------------------------------------------------------------------------------


def evenly(length: int, count: int) -> list[int]:
    """At most `count` of range(length), evenly spread."""
    count = min(count, length)
    return [n * length // count for n in range(count)]


def exact_name_accuracy(captions: Sequence[str], names: Sequence[str]) -> float:
    """Share of captions that say exactly the name, in [0, 1]: case, accents, punctuation, article, style words aside."""
    return float(np.mean([core(said) == core(name) for said, name in zip(captions, names, strict=True)]))


def best(served: contract.Captioner, pictures: Iterable[Image.Image], num_beams: int = 1) -> list[str]:
    """The best caption of each picture, word by word or of beams; as many at once as the model sees at once."""
    found: list[str] = []
    waiting: list[Image.Image] = []
    for picture in pictures:
        waiting.append(picture)
        if len(waiting) == contract.BATCH:
            found += [captions[0].text for captions in served.caption_all(waiting, num_beams=num_beams)]
            waiting = []
    return found + [captions[0].text for captions in served.caption_all(waiting, num_beams=num_beams)]


def worded(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """CIDEr-D and BLEU-4 of captions."""
    return {
        "cider_d": float(metrics.cider_d(captions, references).mean()),
        "bleu4": metrics.bleu4(captions, references),
    }


def picture_scores(served: contract.Captioner, source: Source, rows: Sequence[int], *, exact: bool, num_beams: int = 1):
    """Scores of greedy captions of single pictures, and the captions; exact: whether pictures have names to be said."""
    said = Captions(source)
    captions = best(served, (source.picture(i) for i in rows), num_beams)
    scores = {}
    if exact:
        scores["exact_name_accuracy"] = exact_name_accuracy(captions, [said.plain(i) for i in rows])
    return scores | worded(captions, [said.all(i) for i in rows]), captions


def scene_scores(served: contract.Captioner, scenes: Scenes, kinds: dict[str, int]):
    """Scores of greedy captions of scenes, and the captions; kinds: see `layout_scores`."""
    painted = [scenes.scene(i) for i in range(len(scenes))]
    captions = best(served, (scene.image for scene in painted))
    objects = [scene.objects for scene in painted]
    rng = random.Random(0)
    references = [[scene_caption(told), *(scene_caption(told, rng) for _ in range(4))] for told in objects]
    return layout_scores(captions, objects, kinds) | worded(captions, references), captions


def evaluate_checkpoint(name: str, dataset_name: str, *, scenes: int = SCENES_MEASURED) -> tuple[dict, dict]:
    """Metrics of greedy captions of a saved captioner, the fields of results.json, and figures by name.

    Of "emoji": held-out pairs and the unseen style (training concepts): exact_name_accuracy, cider_d, bleu4; and `scenes`
    scenes each, of new scenes of known things, of validation concepts (whose names no training picture has: look at
    kinds_right) and of the unseen style: objects_right, relations_right, and the two by class. Of other data: cider_d and
    bleu4 of the validation split, `nouns` (see `training.nouns`), and all three of captions by BEAMS beams. The baseline says
    the plain caption of the nearest training picture, in HOG and colour, or in features of the model's own backbone of timm.
    """
    served = contract.load(name)
    train = open_source(dataset_name, split="train")
    known = Captions(train)
    emoji = dataset_name in ("emoji", "emoji-sample")
    splits = {"emoji": ["heldout_pairs", "unseen_style"], "emoji-sample": ["heldout_pairs"]}.get(
        dataset_name, ["validation"]
    )
    sets = {"emoji": ["new_scenes", "validation", "unseen_style"], "emoji-sample": ["new_scenes", "validation"]}
    features_of = hog_features
    if hybrid.is_hybrid(contract.encoder_of(served.model)):
        features_of = functools.partial(backbone_features, served)
    features = features_of(train, range(len(train)))
    scores, baseline, per_class, shown, hashes = {}, {}, {}, {}, []
    for split in splits:
        source = open_source(dataset_name, split=split)
        rows = list(range(len(source)))
        if split == "unseen_style":
            rows = [i for i, part in enumerate(source.column("concept_split")) if part == "train"]
        said = Captions(source)
        measured, captions = picture_scores(served, source, rows, exact=emoji)
        nearest = metrics.nearest_distances(features_of(source, rows), features)[0]
        guesses, truths = [known.plain(i) for i in nearest], [said.all(i) for i in rows]
        guessed = worded(guesses, truths)
        if not emoji:
            by_beams, searched = picture_scores(served, source, rows, exact=False, num_beams=BEAMS)
            nouns = nouns_of(text for i in range(len(known)) for text in known.all(i))
            measured["nouns"], guessed["nouns"] = (share_right(told, truths, nouns) for told in (captions, guesses))
            by_beams["nouns"] = share_right(searched, truths, nouns)
            measured |= {f"beams/{key}": value for key, value in by_beams.items()}
        else:
            truth = [said.plain(i) for i in rows]
            guessed["exact_name_accuracy"] = exact_name_accuracy(guesses, truth)
            styles = [source.column("style")[i] for i in rows]
            per_class[split] = {
                style: exact_name_accuracy(*zip(*((c, t) for c, t, s in zip(captions, truth, styles, strict=True)
                                                  if s == style), strict=True))
                for style in sorted(set(styles))
            }  # fmt: skip
        scores |= {f"{split}/{key}": value for key, value in measured.items()} | {f"{split}/pictures": len(rows)}
        baseline |= {f"{split}/{key}": value for key, value in guessed.items()}
        hashes.append(source.data_hash)
        if emoji or facts_of(dataset_name).show_pictures:
            shown |= {
                split: [(source.picture(rows[n]), captions[n], said.plain(rows[n])) for n in evenly(len(rows), 8)]
            }
    for which in sets.get(dataset_name, []):
        count = scenes if dataset_name == "emoji" else min(scenes, 20)
        painted = Scenes(which, dataset_name=dataset_name, resolution_px=served.resolution_px, length=count,
                         max_objects=MOST_SAID)  # fmt: skip
        kinds = {core(spoken(known.names[i])): train.label(i) + 1 for i in range(len(train))}
        measured, captions = scene_scores(served, painted, kinds)
        scores |= {f"scenes/{which}/{key}": value for key, value in measured.items()}
        scores[f"scenes/{which}/pictures"] = len(painted)
        hashes.append(painted.data_hash)
        examples = [(painted.scene(n), captions[n]) for n in evenly(len(painted), 8)]
        shown[f"scenes-{which.replace('_', '-')}"] = [(s.image, said, scene_caption(s.objects)) for s, said in examples]
    results = {
        "metrics": scores,
        "baseline": baseline,
        "baseline_name": f"{'HOG + colour' if features_of is hog_features else 'backbone'} nearest neighbour",
        "per_class": per_class,
        "curves": {},
        "data_hash": "-".join(value[:12] for value in hashes),
    }
    return results, {"captions": captions_sheet([row for rows in shown.values() for row in rows])} if shown else {}


def hog_features(source: Source, indices: Sequence[int]) -> np.ndarray:
    """HOG and colour of pictures whole in a white square: (N, D)."""
    return metrics.hog_colour_features(np.stack([np.asarray(frame(source.picture(i), HOG_PX)) for i in indices]))


@torch.no_grad()
def backbone_features(served: contract.Captioner, source: Source, indices: Sequence[int]) -> np.ndarray:
    """The last map of a backbone of timm, mean over its places, of length 1: (N, C)."""
    tower, rows = contract.encoder_of(served.model), []
    views = Views(source, tower, served.pixel_values, 1)
    for at in range(0, len(indices), contract.BATCH):
        maps = torch.stack([views.maps(i, 0).float() for i in indices[at : at + contract.BATCH]])
        rows.append(hybrid.late_map(hybrid.backbone_of(tower), maps).mean((2, 3)))
    return F.normalize(torch.cat(rows)).numpy()


def sheet_of(served: contract.Captioner, source: Source, scenes: Scenes | None) -> Image.Image:
    """Captions of a few pictures and scenes as they are now."""
    said = Captions(source)
    rows = [(source.picture(i), said.plain(i)) for i in evenly(len(source), 8)]
    if scenes is not None:
        rows += [(s.image, scene_caption(s.objects)) for s in map(scenes.scene, evenly(len(scenes), 8))]
    captions = best(served, (picture for picture, _ in rows))
    return captions_sheet([(picture, said, true) for (picture, true), said in zip(rows, captions, strict=True)])


def captions_sheet(rows: Sequence[tuple[Image.Image, str, str]]) -> Image.Image:
    """Pictures in two columns, each with what was said of it, and below in grey what is true."""
    tile, width, columns = 72, 560, 2
    sheet = Image.new("RGB", (width * columns, tile * -(-len(rows) // columns)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, (picture, said, true) in enumerate(rows):
        x, y = number % columns * width, number // columns * tile
        sheet.paste(frame(picture, tile - 8), (x + 4, y + 4))
        colour = (20, 140, 60) if core(said) == core(true) else "black"
        pen.text((x + tile + 4, y + 14), said[:72], colour, font)
        pen.text((x + tile + 4, y + 38), true[:72], (130, 130, 130), font)
    return sheet.quantize(128)


def describe(cfg: CaptioningConfig, train: Source, served: contract.Captioner, argv: list[str] | None) -> dict:
    """What the card says of this model beside what the loop knows."""
    base, side, photo = cfg.pretrained_model_name_or_path, served.resolution_px, served.kind.startswith("dpt")
    facts = facts_of(cfg.dataset_name)
    emoji = cfg.dataset_name in ("emoji", "emoji-sample")
    decoder = contract.decoder_of(served.model).config
    data = facts.title
    if emoji:
        data = "emoji art in five styles, with captions made of names, keywords and styles"
        if cfg.scenes:
            data += f", and scenes painted from it, of up to {cfg.scene_objects} things, with captions that say what is where"
    blip = served.kind == "blip"
    kind = "BLIP" if blip else f"{served.model.config.encoder.model_type} and {decoder.model_type}"
    model_class = "BlipForConditionalGeneration" if blip else "VisionEncoderDecoderModel"
    began = "the tower that of a dual encoder trained on the same pictures, the decoder new"
    credits = list(publish.ATTRIBUTIONS.values()) if emoji else list(facts.credits)
    if base:
        began = "fine-tuned"
        credits = list(dict.fromkeys([*credits, *hybrid.inherited(STEM, base)]))
    elif cfg.tower_name_or_path:
        began = "its backbone trained before, the rest new"
        credits += hybrid.origin(cfg.tower_name_or_path)
    return {
        "stem": STEM,
        "name": "emoji" if emoji else "photo" if photo else Path(cfg.dataset_name).name,
        "title": f"Captions, {side} px",
        "summary": f"It says what a picture of {side} × {side} pixels shows, in English: {kind} with cross-attention "
                   f"({began}), {decoder.num_hidden_layers} decoder layers of width {decoder.hidden_size}, at most "
                   f"{served.max_length} tokens. Training data: {data}.",
        "library_name": "transformers",
        "pipeline_tag": "image-to-text",
        "tags": ["image-to-text", "image-captioning", "vision"],
        **(facts.licensed() or {"license": publish.license_of(train.licenses)}),
        "datasets": [] if emoji else [cfg.dataset_name],
        "base_model": base,
        "command": publish.command_line(STEM, argv),
        "parameters": served.parameters,
        "attributions": credits,
        "usage": f"from transformers import AutoImageProcessor, AutoTokenizer, {model_class}\n\n"
                 f'model = {model_class}.from_pretrained("org/name")\n'
                 'tokenizer = AutoTokenizer.from_pretrained("org/name")\n'
                 'processor = AutoImageProcessor.from_pretrained("org/name")\n'
                 'pixels = processor(images=picture, return_tensors="pt").pixel_values'
                 f'{"  # a PIL picture, square, on white" if served.framed else ""}\n'
                 "print(tokenizer.batch_decode(model.generate(pixel_values=pixels), skip_special_tokens=True))",
        "limits": [f"It sees {side} × {side} pixels; small things in large pictures are lost."] + ([
            "It knows the names of emoji, and drawings of them; of a photograph it says which emoji it is most like.",
            f"It names at most {MOST_SAID} things of a scene, and a place without a thing is in relation to the thing "
            "named just before.",
        ] if emoji else list(facts.limits)),
    }  # fmt: skip


if __name__ == "__main__":
    main()
