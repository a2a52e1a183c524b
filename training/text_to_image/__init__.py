"""Text to image: latent diffusion, conditioned on the text tower of our CLIP.

    python -m training.text_to_image --vae_name_or_path runs/autoencoder/export --clip_name_or_path runs/clip/export \
        --output_dir runs/text_to_image --mixed_precision bf16     # smileys, animals, food, travel, activities, objects
    python -m training.text_to_image --preset emoji-all --pretrained_model_name_or_path runs/text_to_image/export \
        --output_dir runs/text_to_image-all                                  # widen it to all emoji
    python -m training.text_to_image --preset few-steps --pretrained_model_name_or_path runs/text_to_image/export \
        --output_dir runs/text_to_image-few                                  # a student that draws in 1 to 4 steps
    python -m training.text_to_image --preset finetune --dataset_name my_pictures --resolution 512 --lora_rank 8 \
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 --output_dir runs/lora
                                                                             # any Stable Diffusion; a LoRA

Cost and scores of the shipped weights stand in their card (hub_models/weights/text_to_image/emoji/README.md).

Latents and text states are made once and kept in build/cache (or $VITRAIL_CACHE), under a name that is a hash of data,
weights and transforms; --no_cache makes them anew in every step, with the same numbers.

Rombach et al. 2022 (latent diffusion), Salimans & Ho 2022 (v prediction), Hang et al. 2023 (min-SNR weighting),
Ho & Salimans 2022 (classifier-free guidance), Lin et al. 2024 (zero terminal SNR), Hu et al. 2022 (LoRA); few_steps.py
has those of the student.

Letters: B batch, R side of the picture in pixels, C × h × w a latent, L tokens, D width of the text states,
T training timesteps, V views of a picture (2 with flips), K captions of a picture.
"""

import copy
import dataclasses
import json
from collections.abc import Callable, Sequence

import torch
from diffusers import DDPMScheduler

from hub_models import text_to_image as contract
from training import figures
from training.config import parse
from training.data.captions import STYLE_WORDS, say_cut
from training.diffusion import diffusion_loss
from training.optim import Player
from training.task import Card, Task, opened_pair, run
from training.text_to_image import few_steps
from training.text_to_image.config import PRESETS, TextToImageConfig
from training.text_to_image.evaluation import Strata, draw, evaluate_checkpoint
from training.text_to_image.few_steps import Student
from training.text_to_image.latents import conditions, samples_of
from training.text_to_image.model import STEM, Adapter, base_of, create_model, save, save_lora
from training.text_to_image.selection import Selection, is_emoji, select, within_limits

__all__ = ["PRESETS", "evaluate_checkpoint", "main", "task_of"]


def task_of(cfg: TextToImageConfig) -> Task:
    """The experiment of a config."""
    chosen: dict = {"groups": cfg.groups, "styles": cfg.styles, "own": cfg.caption_column is not None}
    train, held_out = (select(part, **chosen) for part in opened_pair(cfg, caption_column=cfg.caption_column))
    torch.manual_seed(cfg.seed)
    model, vae = create_model(cfg, styles=list(STYLE_WORDS.values()) if train.source.facts.ours else [])
    cfg = dataclasses.replace(cfg, num_train_timesteps=model.num_train_timesteps)
    samples = samples_of(train, model, vae, cfg)
    if not is_emoji(train.source) or cfg.caption_column:
        say_cut(train.source.name, train.captions, model.pipe.tokenizer, model.max_length)
    prompts = [within_limits(text) for text in cfg.validation_prompts]
    prompts = prompts or [texts[0] for texts in train.captions[:: max(1, len(train) // 16)]][:16]

    if cfg.few_steps:
        model, player, evaluate = taught(model, vae, cfg, [texts[0] for texts in held_out.captions[:32]])
    else:
        player, evaluate = denoised(model, vae, cfg, train, held_out)

    def served(module):
        now, now.pipe = copy.copy(model), copy.copy(model.pipe)
        now.pipe.unet = module.unet if isinstance(module, Adapter | Student) else module
        return now

    def save_as(folder, now):
        save_lora(folder, now.pipe.unet, cfg) if cfg.lora_rank else save(folder, now, vae, cfg)

    return Task(
        stem=STEM, source=train.source, samples=samples,
        players=[player], served=served, evaluate=evaluate,
        draw=lambda now: figures.sheet(draw(now, prompts, seed=0), columns=8), save=save_as,
        card=lambda now: card_of(now, cfg, train), cfg=cfg,
    )  # fmt: skip


def denoised(model, vae, cfg: TextToImageConfig, train: Selection, held_out: Selection) -> tuple[Player, Callable]:
    """The U-Net, or the LoRA of it, as it learns to denoise; and what is measured of it."""
    scheduler = DDPMScheduler.from_config(model.pipe.scheduler.config)
    strata = {"loss": Strata(held_out, model, vae), "train_loss": Strata(train, model, vae)}

    def loss(unet, batch):
        latents, states = conditions(batch, model, vae)
        gamma = cfg.snr_gamma if cfg.loss_weighting == "min_snr" else None
        error = diffusion_loss(
            unet, scheduler, latents, batch["noise"], batch["timestep"], snr_gamma=gamma, encoder_hidden_states=states
        )
        return error.mean(), {}

    def evaluate(now):
        return {name: part.loss(now.pipe.unet, scheduler) for name, part in strata.items()}

    return Player(Adapter(model.pipe.unet) if cfg.lora_rank else model.pipe.unet, loss), evaluate


def taught(
    teacher: contract.TextToImage, vae, cfg: TextToImageConfig, prompts: Sequence[str]
) -> tuple[contract.TextToImage, Player, Callable]:
    """A student, as it learns from its teacher; and what is measured of it: how far from the teacher's pictures for
    these prompts its own are after one step, from the same noise.
    """
    student = few_steps.student_of(teacher)
    path, learner = few_steps.Path(teacher, prompts), Student(student.pipe.unet)
    batches = cfg.max_train_steps * cfg.gradient_accumulation_steps
    lesson = few_steps.distillation(teacher, student, learner, batches)

    def loss(module, batch):
        latents, states = conditions(batch, teacher, vae)
        return lesson(module, latents, batch["noise"], batch["timestep"].clamp(min=1), batch["scale"], states), {}

    return student, Player(learner, loss), lambda now: {"distance": path.distance(now)}


def main(argv: list[str] | None = None) -> None:
    cfg = parse(PRESETS, argv, description=__doc__)
    run(task_of(cfg), cfg, argv)


def card_of(model: contract.TextToImage, cfg: TextToImageConfig, train: Selection) -> Card:
    """What the card says of a model of this config."""
    side, facts, lora = cfg.resolution, train.source.facts, bool(cfg.lora_rank)
    drawn = f"{len(set(train.names)):,} names" + (f", of the groups {', '.join(cfg.groups)}" if cfg.groups else "")
    usage = "from diffusers import DiffusionPipeline\n\n"
    if lora:
        usage += f'pipe = DiffusionPipeline.from_pretrained("{base_of(cfg)}")\npipe.load_lora_weights("org/name")\n'
    else:
        usage += 'pipe = DiffusionPipeline.from_pretrained("org/name")\n'
    steps, kind = model.default_steps if cfg.few_steps else 10, "A LoRA" if lora else "Latent diffusion"
    if cfg.few_steps:
        kind = f"A student of {base_of(cfg)}, latent diffusion in 1, 2 or 4 steps,"
    asked = f"{json.dumps('a red apple' if facts.ours else train.captions[0][0])}, num_inference_steps={steps}"
    usage += f"picture = pipe({asked}, guidance_scale={model.default_guidance:g}).images[0]"
    trained = sum(p.numel() for p in model.pipe.unet.parameters() if p.requires_grad)
    tags = ["text-to-image", "diffusers", "diffusers-training", "stable-diffusion", "stable-diffusion-diffusers"]
    return Card(
        name="lora" if lora else (facts.ours or "text-to-image") + "-few" * cfg.few_steps,
        title=f"{f'LoRA for {base_of(cfg)}' if lora else 'Text to image'}, {side} px" + ", few steps" * cfg.few_steps,
        summary=f"{kind} that draws {side} × {side} pictures from a prompt: stock "
        f"StableDiffusionPipeline, {trained / 1e6:.1f}M trained parameters in the U-Net, "
        f"{model.pipe.scheduler.config.prediction_type}. Training data: {facts.title}; {len(train):,} pictures, "
        f"{drawn}.",
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=tags + ["lora"] * lora,
        parameters=trained if lora else model.parameters,
        usage=usage,
        limits=[
            f"It draws {side} × {side} pixels, many of them only roughly like what was asked for.",
            f"Its text tower reads {model.max_length} tokens; the rest of a prompt is cut.",
            *[
                f"Guidance is something it reads, from 1 to {model.max_guidance:g}; a negative prompt says nothing to "
                f"it, and more than {model.max_steps} steps it doesn't take."
            ]
            * cfg.few_steps,
            *[
                "Its tensors have diffusers' names; ComfyUI and AUTOMATIC1111 read those of --lora_format kohya, which "
                "diffusers.utils.convert_state_dict_to_kohya makes of them."
            ]
            * (lora and cfg.lora_format == "diffusers"),
        ],
    )
