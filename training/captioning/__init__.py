"""Captions of pictures: the image tower of a dual encoder, and a small decoder that attends to its patches.

    python -m training.captioning --output_dir runs/captioning --mixed_precision bf16   # emoji and scenes, one model
    python -m training.captioning --preset photo --output_dir runs/photo --mixed_precision bf16     # photographs, then:
    python -m training.captioning --preset photo-cider --output_dir runs/cider \
        --pretrained_model_name_or_path runs/photo/export
    python -m training.captioning --preset finetune --dataset_name my_pictures --output_dir runs/my-captioner \
        --pretrained_model_name_or_path emoji                   # or any VisionEncoderDecoderModel, or BLIP, of the Hub

Cost and scores of the shipped weights stand in their card (hub_models/weights/captioning/emoji/README.md).

Photographs begin as a backbone of timm (training/hybrid.py) whose first stages see them once (training/data/views.py);
captions that are drawn and scored come last (self_critical.py).

Vinyals et al. 2015 (Show and Tell), Xu et al. 2015 (attention), Vaswani et al. 2017, Szegedy et al. 2016 (label
smoothing), Vedantam et al. 2015 (CIDEr), Papineni et al. 2002 (BLEU).

Letters: B samples, R side in pixels, L tokens, V pieces of the vocabulary, S states of the encoder, h × w patches,
D width of the tower.
"""

from pathlib import Path

import torch

from hub_models import captioning as contract
from hub_models import clip
from hub_models.captioning.parts import show_attention
from training import beginnings, hybrid
from training.captioning.config import PRESETS, CaptioningConfig
from training.captioning.evaluation import evaluate_checkpoint, evenly, picture_scores, scene_scores, sheet_of
from training.captioning.losses import Trainee, tower_groups, training_loss
from training.captioning.model import create_captioner, create_captioner_on_tower, require_places, start_from
from training.captioning.packed import packed_loss
from training.captioning.samples import CaptionedPictures
from training.captioning.self_critical import Rewards, self_critical_loss
from training.config import parse
from training.data.captions import MOST_SAID, Captions, say_cut
from training.data.facts import facts_of
from training.data.scenes import Scenes
from training.data.sources import Source
from training.data.views import viewed
from training.optim import Player
from training.task import Card, Task, opened_pair, run, with_model
from training.worlds import seen_of

__all__ = ["PRESETS", "evaluate_checkpoint", "main", "task_of"]

STEM = "captioning"
NEVER = 2**62  # forward passes


def task_of(cfg: CaptioningConfig) -> Task:
    """The experiment of a config."""
    facts = facts_of(cfg.dataset_name)
    train, held_out = opened_pair(cfg, "train", facts.known_sets[0], caption_column=cfg.caption_column)
    torch.manual_seed(cfg.seed)
    served = begun(cfg, train)
    if not (said := Captions(train)).made:
        say_cut(train.name, map(said.all, range(len(train))), served.tokenizer, served.max_length)
    scenes = new_scenes = None
    if facts.painted_sets and cfg.scenes:
        painted: dict = {"dataset_name": cfg.dataset_name, "max_objects": cfg.scene_objects}
        painted["resolution_px"] = served.resolution_px
        scenes = Scenes("train", length=cfg.train_scenes, ink=cfg.object_ink, colour=cfg.object_color, **painted)
        new_scenes = Scenes("new_scenes", length=cfg.validation_pictures, **painted)
    rewards = Rewards(Captions(train)) if cfg.drawn_captions else None
    encoder = contract.encoder_of(served.model)
    if cfg.cached_views:
        samples = viewed(train, Captions(train), encoder, served.pixel_values, cfg)
        hybrid.fix(encoder, late=cfg.unfreeze_step is None)
    else:
        samples = CaptionedPictures(train, scenes, cfg, served)
    if cfg.place_weight or cfg.pointing_weight:
        require_places(served)
    frozen = NEVER if cfg.unfreeze_step is None else cfg.unfreeze_step * cfg.gradient_accumulation_steps
    trainee = Trainee(
        served.model, frozen, places=cfg.place_weight > 0, points=cfg.pointing_weight > 0, maps=cfg.cached_views > 0
    )
    if cfg.pointing_weight:
        show_attention(served.model)

    def loss(model, batch):
        if rewards is not None:
            drawn = cfg.drawn_captions, cfg.max_length - 1, cfg.draw_temperature
            return self_critical_loss(model, batch, served, rewards, *drawn)
        if cfg.cached_views:
            return packed_loss(model, batch, served, cfg.label_smoothing)
        return training_loss(model, batch, served, cfg)

    def evaluate(now):
        rows = evenly(len(held_out), cfg.validation_pictures)
        measured = picture_scores(now, held_out, rows)[0]
        if new_scenes is not None:
            measured |= {f"scenes/{key}": value for key, value in scene_scores(now, new_scenes, {})[0].items()}
        return measured

    return Task(
        stem=STEM, source=train, players=[Player(trainee, loss, tower_groups(trainee, cfg))], samples=samples,
        served=lambda model: with_model(served, model.captioner), evaluate=evaluate,
        draw=lambda now: sheet_of(now, held_out, new_scenes), save=contract.save_folder,
        card=lambda now: card_of(now, cfg, train), seen=lambda: seen_of(train, scenes, cfg.scenes),
    )  # fmt: skip


def begun(cfg: CaptioningConfig, train: Source) -> contract.Captioner:
    """The captioner before step 1: of a checkpoint, on a backbone of timm, or on the tower of a dual encoder."""
    if cfg.pretrained_model_name_or_path:
        return start_from(cfg)
    if cfg.tower_name_or_path:
        return create_captioner_on_tower(cfg, Captions(train).words())
    return create_captioner(cfg, clip.load(cfg.clip_name_or_path, device="cpu"))


def main(argv: list[str] | None = None) -> None:
    cfg = parse(PRESETS, argv, description=__doc__)
    run(task_of(cfg), cfg, argv)


def card_of(served: contract.Captioner, cfg: CaptioningConfig, train: Source) -> Card:
    """What the card says of a model of this config."""
    base, side, facts = cfg.pretrained_model_name_or_path, served.resolution_px, train.facts
    decoder, model_class = contract.decoder_of(served.model).config, "VisionEncoderDecoderModel"
    data, limits = facts.title, [f"It sees {side} × {side} pixels; small things in large pictures are lost."]
    if facts.ours:
        data += ", with captions made of names, keywords and styles"
        if cfg.scenes:
            data += (
                f", and scenes painted from it, of up to {cfg.scene_objects} things, whose captions say what is where"
            )
        limits += [
            "It knows the names of emoji, and drawings of them; of a photograph it says which emoji it is most like.",
            f"It names at most {MOST_SAID} things of a scene, and a place without a thing is in relation to the thing "
            "named just before.",
        ]
    credits: list[str] = []
    kind = f"{contract.encoder_of(served.model).config.model_type} and {decoder.model_type}"
    if served.kind == "blip":
        kind, model_class = "BLIP", "BlipForConditionalGeneration"
    if base:
        began, credits = "fine-tuned", hybrid.inherited(STEM, base)
    elif cfg.tower_name_or_path:
        began, credits = "its backbone trained before, the rest new", beginnings.origin(cfg.tower_name_or_path)
    else:
        began = "the tower that of a dual encoder trained on the same pictures, the decoder new"
    return Card(
        name=facts.ours or ("photo" if served.kind.startswith("dpt") else Path(cfg.dataset_name).name),
        title=f"Captions, {side} px",
        summary=f"It says what a picture of {side} × {side} pixels shows, in English: {kind} with cross-attention "
        f"({began}), {decoder.num_hidden_layers} decoder layers of width {decoder.hidden_size}, at most "
        f"{served.max_length} tokens. Training data: {data}.",
        library_name="transformers",
        pipeline_tag="image-to-text",
        tags=["image-to-text", "image-captioning", "vision"],
        parameters=served.parameters,
        credits=credits,
        usage=f"from transformers import AutoImageProcessor, AutoTokenizer, {model_class}\n\n"
        f'model = {model_class}.from_pretrained("org/name")\n'
        'tokenizer = AutoTokenizer.from_pretrained("org/name")\n'
        'processor = AutoImageProcessor.from_pretrained("org/name")\n'
        'pixels = processor(images=picture, return_tensors="pt").pixel_values'
        f"{'  # a PIL picture, square, on white' if served.framed else ''}\n"
        "print(tokenizer.batch_decode(model.generate(pixel_values=pixels), skip_special_tokens=True))",
        limits=limits,
    )
