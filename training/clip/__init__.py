"""A dual encoder of pictures and texts, trained by contrast (CLIP).

    python -m training.clip --output_dir runs/clip --mixed_precision bf16      # Swin, 64 px, and two layers of MiniLM
    python -m training.clip --preset vit --output_dir runs/clip-vit            # the same with a ViT
    python -m training.clip --preset photo --output_dir runs/clip-photo        # photographs, on a backbone of timm
    python -m training.clip --preset finetune --dataset_name my_pictures --pretrained_model_name_or_path emoji \
        --output_dir runs/my-clip                                 # or any dual encoder or CLIPModel of the Hub

Cost and scores of the shipped weights stand in their card (hub_models/weights/clip/emoji/README.md).

Radford et al. 2021 (CLIP), Khosla et al. 2020 (supervised contrastive), Liu et al. 2021 (Swin), Wang et al. 2020
(MiniLM).

Letters: B samples, V views of each, N = B·V pictures, M texts, R side in pixels, P side before augmentation, L tokens,
D width of the common space, K names, W processes, A uniform numbers per picture.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from hub_models import clip as contract
from training import beginnings, hybrid
from training.clip.config import PRESETS, CLIPConfig
from training.clip.evaluation import evaluate_checkpoint, fit_rank_temperature, recalls
from training.clip.losses import MAX_LOGIT_SCALE, Trainee, training_loss, viewed_loss
from training.clip.model import create_clip, start_from
from training.clip.samples import CaptionedPictures
from training.config import parse
from training.data.captions import Captions, say_cut
from training.data.sources import Source
from training.data.views import viewed
from training.data.vocabulary import frequent_words
from training.optim import Player, slower
from training.task import Card, Task, opened, opened_pair, run, with_model
from training.worlds import some_of

__all__ = ["PRESETS", "evaluate_checkpoint", "main", "task_of"]

STEM = "clip"
RARE = 3  # a word of captions of photographs is in the vocabulary if it is said so often


def task_of(cfg: CLIPConfig) -> Task:
    """The experiment of a config."""
    train, concepts = opened_pair(cfg, caption_column=cfg.caption_column)
    sets = {"concepts": concepts}
    if "heldout_pairs" in train.facts.evaluation_sets:
        sets["pairs"] = opened(cfg, "heldout_pairs", caption_column=cfg.caption_column)
    torch.manual_seed(cfg.seed)
    captions = Captions(train)
    if cfg.pretrained_model_name_or_path:
        served = start_from(cfg)
    elif cfg.tower_name_or_path:
        served = create_clip(cfg, frequent_words(captions.words(), RARE))
    else:
        served = create_clip(cfg, [*captions.words(), *Captions(concepts).words()])
    if not captions.made:
        say_cut(train.name, map(captions.all, range(len(train))), served.tokenizer, served.max_length)
    if cfg.cached_views:
        tower = served.model.vision_model
        samples = viewed(train, captions, tower, served.preprocess, cfg)
        hybrid.fix(tower, late=not cfg.late_stages)
    else:
        samples = CaptionedPictures(train, cfg)
    names = samples.names if isinstance(samples, CaptionedPictures) and cfg.concept_weight else ()
    trainee = Trainee(served.model, len(names), maps=cfg.cached_views > 0)

    groups = slower(trainee, served.model.text_model, cfg, lr_scale=cfg.text_lr_scale)  # it comes trained

    def loss(model, batch):
        return viewed_loss(model, batch, served) if cfg.cached_views else training_loss(model, batch, served, cfg)

    def evaluate(now):
        shown: dict[str, tuple[Source, Sequence[int]]]
        shown = {
            name: (source, range(0, len(source), -(-len(source) // (cfg.validation_pictures or len(source)))))
            for name, source in sets.items()
        }
        if isinstance(samples, CaptionedPictures) and cfg.leave_out_style:
            kept = set(samples.kept)
            shown["left_out"] = train, [i for i in range(len(train)) if i not in kept and samples.number[i] >= 0]
        return {f"{name}/recall@5": recalls(now, *some)["image_to_text/recall@5"] for name, some in shown.items()}

    def finished(now):
        with torch.no_grad():
            now.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        now.rank_temperature = fit_rank_temperature(now, concepts)
        return now

    return Task(
        stem=STEM, source=train, players=[Player(trainee, loss, groups)], samples=samples,
        served=lambda model: with_model(served, model.clip), evaluate=evaluate, finished=finished, save=save,
        card=lambda now: card_of(now, cfg, train), seen=lambda: some_of(train), pictures_per_sample=cfg.views,
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    cfg = parse(PRESETS, argv, description=__doc__)
    run(task_of(cfg), cfg, argv)


def save(folder: Path, served: contract.CLIP) -> None:
    """Write the folder that the contract reads."""
    parts = served.model, served.tokenizer, served.image_processor
    contract.save_folder(folder, *parts, served.rank_temperature, served.framed)


def card_of(served: contract.CLIP, cfg: CLIPConfig, train: Source) -> Card:
    """What the card says of a model of this config."""
    base, side, facts = cfg.pretrained_model_name_or_path, cfg.resolution, train.facts
    vision, text = served.model.vision_model.config, served.model.text_model.config
    minilm, photo = base is None and cfg.text == "minilm", vision.model_type == "dpt"
    data = facts.title + ", with captions made of names, keywords and styles" * bool(facts.ours)
    kind = "backbone of timm with ViT layers" if photo else vision.model_type
    framed = "whole pictures on white; frame others like that first" if served.framed else "pictures squeezed into that"
    credits: list[str] = []
    if base:
        credits += hybrid.inherited(STEM, base)
    elif cfg.tower_name_or_path:
        credits += beginnings.origin(cfg.tower_name_or_path)
    if minilm:
        credits += ["all-MiniLM-L6-v2, sentence-transformers, Apache-2.0 (its first layers)"]
    return Card(
        name=facts.ours or ("photo" if photo else STEM),
        title=f"CLIP, {side} px",
        summary=f"A dual encoder that puts pictures of {side} × {side} pixels and English texts into one space of "
        f"{served.model.config.projection_dim} numbers: a {kind} and a {text.model_type} of "
        f"{text.num_hidden_layers} layers, {served.max_length} tokens, {len(served.tokenizer):,} pieces"
        f"{', begun from the first layers of MiniLM' if minilm else ''}. Training data: {data}.",
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "vision", "vision-text-dual-encoder"],
        parameters=served.parameters,
        credits=credits,
        usage="from transformers import AutoImageProcessor, AutoModel, AutoTokenizer\n\n"
        'model = AutoModel.from_pretrained("org/name")\n'
        'tokenizer = AutoTokenizer.from_pretrained("org/name")\n'
        'processor = AutoImageProcessor.from_pretrained("org/name")\n'
        'texts = tokenizer(["a red apple", "a dog"], padding=True, return_tensors="pt")\n'
        'pixels = processor(images=picture, return_tensors="pt")  # a PIL picture, square, on white\n'
        "probabilities = model(**texts, **pixels).logits_per_image.softmax(-1)",
        limits=[
            f"It sees {side} × {side} pixels, {framed}.",
            f"It reads English of at most {served.max_length} tokens; longer texts are cut.",
        ],
    )
