"""What tests have to know of each family, in one table: a new family is one more row.

Letters: B pictures of R × R pixels.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import tiny_models
import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from hub_models import (
    autoencoder,
    captioning,
    classifier,
    clip,
    ddpm,
    detection,
    energy,
    gan,
    ladder,
    pretrain,
    segmentation,
    text_to_image,
    tokens,
    translation,
)

HELD_OUT = ("heldout_pairs", "validation")
T = 500  # of what takes noise away
WAYS = "image_to_text", "text_to_image"
PROJECT = "pytorch"  # the library of what has no stock class: huggingface_hub's mixin around a class of hub_models


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a stem's models are made, opened by stock code, compared, trained and measured."""

    contract: ModuleType  # hub_models.<stem>
    save: Callable[[Path], object]  # a folder of a tiny random model
    again: Callable[[Any, Path], object]  # saves a model that was loaded
    stock: dict[
        str, str
    ]  # {library: the line by which it has `model` of a folder or repository `name`}; its own is first
    alike: Callable[[Any, Any, torch.Tensor], tuple]  # what ours and the stock model answer to pictures (B, 3, R, R)
    metrics: frozenset[str]  # of an evaluation on the sample
    answer: Callable[[Any, Image.Image], bytes] | None = None  # what its page shows, of a picture or a fixed seed
    confusion: tuple[str, str] | None = None  # the curve whose trace is this metric
    knows: Callable[[Any], bool] = lambda ours: True  # of what the preset `tiny` has made
    parts: dict[str, str] = field(default_factory=dict)  # {flag of its script: stem of what it stands on}
    still: tuple[str, ...] = ()  # flags with which a fine-tuning that learns nothing leaves everything as it was
    wrapped: str = ""  # how names of parameters begin while it is trained
    aside: int = 0  # averaged parameters that aren't exported
    moved: frozenset[str] = frozenset()  # parameters that the export changes

    def load(self, folder: Path | str):
        """What our contract opens."""
        return self.contract.load(str(folder), device="cpu")

    @torch.no_grad()
    def assert_alike(self, ours, theirs: torch.nn.Module, atol: float = 0.0) -> None:
        """Both answer the same, in fp32; by default to the bit."""
        assert {p.dtype for p in theirs.parameters()} == {torch.float32}
        x = torch.randn(2, 3, ours.resolution_px, ours.resolution_px, generator=torch.Generator().manual_seed(0))
        mine, other = self.alike(ours, theirs.eval(), x)
        torch.testing.assert_close(mine, other, rtol=0, atol=atol)

    @property
    def library(self) -> str:
        return next(iter(self.stock))

    def opened(self, folder: Path, library: str | None = None) -> torch.nn.Module:
        """The model of a folder, by the library alone and with no arguments about precision."""
        known = {"name": str(folder), "place": "local-dir:"}  # what timm has before a folder's name
        exec(self.stock[library or self.library], known)
        return known["model"]


def run_of(stem: str, **more) -> dict:
    """The run.json of a training that lasted no time."""
    return {
        "stem": stem, "name": "tiny", "title": f"Tiny {stem}", "summary": "Random weights.", "license": "cc-by-4.0",
        "library_name": FAMILIES[stem].library, "tags": [stem], "usage": 'load("org/name")', "steps": 1,
        "images_seen": 4, "hours": 0.01, "hardware": "CPU", "seed": 0, "config": {"dataset_name": "emoji-sample"},
        "history": {"loss": [[1, 2.0], [2, 1.0]]},
        "attributions": ["Twemoji, Twitter and other contributors, CC BY 4.0"],
    } | more  # fmt: skip


def names(splits, *metrics: str) -> frozenset[str]:
    return frozenset(f"{split}/{metric}" for split in splits for metric in metrics)


def scores(model, x: torch.Tensor) -> torch.Tensor:
    """The logits of a stock segmenter, before they are resized; smp's are bare."""
    out = model(x)
    return getattr(out, "logits", out)


def classified(ours, theirs, x: torch.Tensor) -> tuple:
    x = classifier.with_noise_plane(x, 0.5) if ours.reads_noise else x
    return ours.model(x), theirs(x)


def things(ours, theirs, x: torch.Tensor) -> tuple:
    kept = ("class_queries_logits", "masks_queries_logits", "logits", "pred_boxes", "pred_masks")
    answers = [model(pixel_values=x) for model in (ours.model, theirs)]
    return tuple(tuple(answer[key] for key in kept if key in answer) for answer in answers)


def detected(ours, picture: Image.Image) -> bytes:
    [found] = ours.detect([picture], 0)
    return found.boxes.tobytes() + found.labels.tobytes() + found.scores.tobytes()


def captions(ours, theirs, x: torch.Tensor) -> tuple:
    picture = to_pil_image(x[0].clamp(0, 1))
    said = theirs.generate(pixel_values=ours.pixel_values([picture]))
    return torch.tensor(ours.caption(picture)[0].tokens), said[0, 1:]


def latents(ours, theirs, x: torch.Tensor) -> tuple:
    x = torch.randn(1, *ours.latent_shape, generator=torch.Generator().manual_seed(0))
    states = ours.text_states(["a red apple"])
    return tuple(unet(x, T, encoder_hidden_states=states).sample for unet in (ours.pipe.unet, theirs))


def denoised(ours, theirs, x: torch.Tensor) -> tuple:
    rows = None if ours.null_label is None else torch.tensor([0, ours.null_label])[: len(x)]
    return tuple(unet(x, T, class_labels=rows).sample for unet in (ours.unet, theirs))


def played(ours, theirs, x: torch.Tensor) -> tuple:
    z, noise = ours.latents(range(len(x))).split([theirs.z_dim, theirs.noise_dim], 1)
    return tuple(generator(z, noise, torch.arange(len(x)) % 2) for generator in (ours.model, theirs))


def translated(ours, theirs, x: torch.Tensor) -> tuple:
    return tuple(model(x, torch.arange(len(x)) % 2) for model in (ours.model, theirs))


def ladders(ours, theirs, x: torch.Tensor) -> tuple:
    noise = torch.randn(len(x), theirs.noise_dim, generator=torch.Generator().manual_seed(1))
    return tuple(network(x, noise).pixels for network in (ours.model, theirs))


def next_tokens(ours, theirs, x: torch.Tensor) -> tuple:
    symbols = ours.alphabet.encode(x)
    read = tokens.sequence(symbols, torch.tensor([0, ours.null_label]), ours.alphabet.size)
    of_ours, of_theirs = tokens.logits_of(ours.model, read, ours.alphabet.size), theirs(read)
    return of_ours, getattr(of_theirs, "logits", of_theirs)[..., : ours.alphabet.size]


def captioned(ours, picture: Image.Image) -> bytes:
    [said] = ours.caption(picture)
    return repr((said.text, said.tokens, said.token_log_probs)).encode()


def segmented(ours, picture: Image.Image) -> bytes:
    found = ours.predict(picture)
    return found.ids.tobytes() + found.confidence.tobytes() + found.probabilities.tobytes()


def drawn(ours, of, state: str) -> bytes:
    *_, last = ours.generate(of, [7], num_inference_steps=3, sampler="ddpm")
    return getattr(last, state).numpy().tobytes()


def save_ddpm(ours, folder: Path) -> None:
    ddpm.save_folder(
        folder,
        ours.unet,
        ours.scheduler,
        label_names=ours.label_names,
        null_label=ours.null_label,
        resolution_px=ours.resolution_px,
        guidance_scale=ours.default_guidance,
        ground=ours.ground,
    )


FAMILIES = {
    "autoencoder": Family(
        contract=autoencoder,
        save=tiny_models.autoencoder_folder,
        again=lambda ours, folder: autoencoder.save_folder(folder, ours),
        stock={"diffusers": "from diffusers import AutoencoderKL; model = AutoencoderKL.from_pretrained(name)"},
        alike=lambda ours, theirs, x: (
            ours.encode_tensor(x)[0],
            theirs.encode(x).latent_dist.mean * theirs.config.scaling_factor,
        ),
        metrics=names(HELD_OUT, "psnr", "ssim"),
        still=("--freeze_encoder",),  # else the mean and scale of the latents are measured anew
        wrapped="vae.",
        moved=frozenset({"quant_conv.bias", "post_quant_conv.bias"}),  # the latents' mean is in them
    ),
    "captioning": Family(
        contract=captioning,
        save=tiny_models.captioner,
        again=lambda ours, folder: captioning.save_folder(folder, ours),
        stock={
            "transformers": "from transformers import VisionEncoderDecoderModel as C; model = C.from_pretrained(name)"
        },
        alike=captions,
        answer=captioned,
        metrics=names(["heldout_pairs"], "exact_name_accuracy", "cider_d", "bleu4", "pictures")
        | names(
            ["scenes/new_scenes", "scenes/validation"],
            "objects_right",
            "relations_right",
            "kinds_right",
            "cider_d",
            "bleu4",
        ),
        parts={"--clip_name_or_path": "clip"},
        wrapped="captioner.",
        aside=2,  # a head over places
    ),
    "classifier": Family(
        contract=classifier,
        save=tiny_models.classifier,
        again=lambda ours, folder: tiny_models.save_classifier(folder, ours.model, ours.label_names),
        stock={"timm": "import timm; model = timm.create_model(place + name, pretrained=True)"},
        alike=classified,
        answer=lambda ours, picture: ours.logits([picture]).numpy().tobytes(),
        metrics=names(HELD_OUT, "top1", "top5"),
        confusion=("validation/confusion", "validation/top1"),
        knows=lambda ours: len(ours.label_names) == 12,
    ),
    "clip": Family(
        contract=clip,
        save=tiny_models.dual_encoder,
        again=lambda ours, folder: clip.save_folder(folder, ours.model, ours.tokenizer, ours.image_processor),
        stock={"transformers": "from transformers import AutoModel; model = AutoModel.from_pretrained(name)"},
        alike=lambda ours, theirs, x: (
            clip.unit_image_rows(ours.model, x),
            torch.nn.functional.normalize(theirs.get_image_features(x).pooler_output, dim=-1),
        ),
        metrics=names(HELD_OUT, *(f"{way}/recall@{k}" for way in WAYS for k in (1, 5, 10)))
        | {"validation/zero_shot_accuracy", "heldout_pairs/pictures"},
        wrapped="clip.",
        aside=2,  # a head over names
    ),
    "ddpm": Family(
        contract=ddpm,
        save=tiny_models.ddpm_folder,
        again=save_ddpm,
        stock={"diffusers": "from diffusers import DiffusionPipeline as C; model = C.from_pretrained(name).unet"},
        alike=denoised,
        answer=lambda ours, picture: drawn(ours, [0], "x_t"),
        metrics=frozenset({"held_out_loss", "nearest_train_distance", "label_accuracy", "named_label_accuracy"}),
        knows=lambda ours: len(ours.label_names) == 12,
    ),
    "detection": Family(
        contract=detection,
        save=tiny_models.detector,
        again=lambda ours, folder: detection.save_folder(folder, ours),
        stock={  # the class that config.json names: AutoModelForObjectDetection, or …InstanceSegmentation, has it, too
            "transformers": "import transformers as t; kind = t.AutoConfig.from_pretrained(name).architectures[0]; "
            "model = getattr(t, kind).from_pretrained(name)",
            PROJECT: "from hub_models.rcnn import SwinMaskRCNN as C; model = C.from_pretrained(name)",
        },
        alike=things,
        answer=detected,
        metrics=names(
            ["new_scenes", "validation"], "map", "map50", "counted", "counted_in_all", "count_error", "pictures"
        ),
        knows=lambda ours: len(ours.label_names) == 12 and "background" not in ours.label_names,
    ),
    "energy": Family(
        contract=energy,
        save=tiny_models.energy_folder,
        again=lambda ours, folder: energy.save_folder(folder, ours),
        stock={PROJECT: "from hub_models.energy import EnergyNetwork as C; model = C.from_pretrained(name)"},
        alike=lambda ours, theirs, x: (ours.model(x), theirs(x)),
        metrics=names(HELD_OUT, "top1")
        | {"nearest_train_distance", "label_accuracy", "named_label_accuracy", "precision", "recall"}
        | {f"auroc_{kind}" for kind in ("noise", "negative", "rolled")},
        knows=lambda ours: len(ours.label_names) == 12 and len(ours.energy_quantiles) == energy.QUANTILES,
        wrapped="network.",
    ),
    "gan": Family(
        contract=gan,
        save=tiny_models.gan_folder,
        again=lambda ours, folder: gan.save_folder(folder, ours),
        stock={PROJECT: "from hub_models.gan import Generator as C; model = C.from_pretrained(name)"},
        alike=played,
        metrics=frozenset(
            {
                "label_accuracy",
                "named_label_accuracy",
                "nearest_train_distance",
                "precision",
                "recall",
                "seconds_per_picture",
                "told_apart",
            }
        )
        | names(["untruncated"], "label_accuracy", "precision", "recall"),
        knows=lambda ours: len(ours.label_names) == 12,
    ),
    "ladder": Family(
        contract=ladder,
        save=tiny_models.ladder_folder,
        again=lambda ours, folder: ladder.save_folder(folder, ours),
        stock={PROJECT: "from hub_models.ladder import LadderVAE as C; model = C.from_pretrained(name)"},
        alike=ladders,
        metrics=names(
            HELD_OUT, "bits_per_dim", "bits_per_dim_apart", "kl_top", "kl_lower", "psnr", "psnr_top_alone", "pictures"
        )
        | {"nearest_train_distance", "label_accuracy", "named_label_accuracy", "seconds_per_picture"},
        knows=lambda ours: len(ours.label_names) == 12 and ours.model.observation_std > 0,
        wrapped="ladder.",
    ),
    "pretrain": Family(
        contract=pretrain,
        save=tiny_models.tower,
        again=lambda ours, folder: pretrain.save_folder(folder, ours),
        stock={"timm": "import timm; model = timm.create_model(place + name, pretrained=True, num_classes=0)"},
        alike=lambda ours, theirs, x: (ours.model(x), theirs(x)),
        metrics=names(
            HELD_OUT, "knn", "probe", "effective_rank", "random/knn", "random/probe", "random/effective_rank"
        ),
        answer=lambda ours, picture: ours.features([picture]).numpy().tobytes(),
        wrapped="tower.",
        aside=7,  # the projection and the prototypes of DINO
    ),
    "segmentation": Family(
        contract=segmentation,
        save=tiny_models.segmenter,
        again=lambda ours, folder: segmentation.save_folder(folder, ours),
        stock={
            "transformers": "from transformers import AutoModelForSemanticSegmentation as C; "
            "model = C.from_pretrained(name)",
            "segmentation-models-pytorch": "import segmentation_models_pytorch as C; model = C.from_pretrained(name)",
        },
        alike=lambda ours, theirs, x: (scores(ours.model, x), scores(theirs, x)),
        answer=segmented,
        metrics=names(["new_scenes", "validation"], "miou", "foreground_iou", "pixel_accuracy", "ece"),
        knows=lambda ours: ours.label_names[0] == "background",
    ),
    "text_to_image": Family(
        contract=text_to_image,
        save=lambda folder: tiny_models.stable_diffusion(folder, text="bert"),
        again=lambda ours, folder: text_to_image.save_folder(folder, ours.pipe),
        stock={"diffusers": "from diffusers import DiffusionPipeline as C; model = C.from_pretrained(name).unet"},
        alike=latents,
        answer=lambda ours, picture: drawn(ours, "a red apple", "latents"),
        metrics=names(
            ["train", "heldout_pairs", "unseen_concepts"],
            "named_first",
            "named_top5",
            "classed",
            "style_right",
            "style_by_chance",
            "autoencoder/named_first",
            "autoencoder/classed",
        )
        | {"held_out_loss", "nearest_train_distance"},
        parts={"--vae_name_or_path": "autoencoder", "--clip_name_or_path": "clip"},
    ),
    "tokens": Family(
        contract=tokens,
        save=tiny_models.tokens_folder,
        again=lambda ours, folder: tokens.save_folder(folder, ours),
        stock={
            "transformers": "from transformers import GPT2LMHeadModel as C; model = C.from_pretrained(name)",
            PROJECT: "from hub_models.tokens.pixelcnn import PixelCNN as C; model = C.from_pretrained(name)",
        },
        alike=next_tokens,
        metrics=names(HELD_OUT, "bits_per_dimension")
        | {"nearest_train_distance", "label_accuracy", "named_label_accuracy", "seconds_per_picture"},
        knows=lambda ours: len(ours.label_names) == 12,
    ),
    "translation": Family(
        contract=translation,
        save=tiny_models.translation_folder,
        again=lambda ours, folder: translation.save_folder(folder, ours),
        stock={PROJECT: "from hub_models.translation import StyleUNet as C; model = C.from_pretrained(name)"},
        alike=translated,
        metrics=names(HELD_OUT, "identity_distance", "cycle_distance")
        | names(
            ["heldout_pairs"],
            "rms_distance",
            "feature_distance",
            "nearer_than_input",
            "style_right",
            "truth/style_right",
            "pairs",
        )
        | {"seconds_per_picture"},
        knows=lambda ours: len(ours.style_names) == 5,
    ),
}

KINDS = {  # what else the contract holds for: other kinds of models of a stem
    "detection, maskformer": dataclasses.replace(
        FAMILIES["detection"], save=lambda folder: tiny_models.detector(folder, "maskformer")
    ),
    "detection, rcnn": dataclasses.replace(
        FAMILIES["detection"],
        save=lambda folder: tiny_models.detector(folder, "rcnn"),
        stock={PROJECT: FAMILIES["detection"].stock[PROJECT]},
    ),
}
