"""Text to image: latent diffusion, conditioned on the text tower of our CLIP.

    python -m training.text_to_image --vae_name_or_path runs/autoencoder/export --clip_name_or_path runs/clip/export \
        --output_dir runs/text_to_image --mixed_precision bf16               # smileys, animals, food, travel, activities, objects
    python -m training.text_to_image --preset emoji-all --pretrained_model_name_or_path runs/text_to_image/export \
        --output_dir runs/text_to_image-all                                  # widen it to all emoji
    python -m training.text_to_image --preset finetune --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 \
        --dataset_name my_pictures --resolution 512 --lora_rank 8 --output_dir runs/lora   # any Stable Diffusion; a LoRA

Cost and scores of the shipped weights stand in their card (hub_models/weights/text_to_image/emoji/README.md).

Latents and text states are made once and kept in build/cache (or $VITRAIL_CACHE), under a name that is a hash of data,
weights and transforms; --no_cache makes them anew in every step, with the same numbers.

Rombach et al. 2022 (latent diffusion), Salimans & Ho 2022 (v prediction), Hang et al. 2023 (min-SNR weighting),
Ho & Salimans 2022 (classifier-free guidance), Lin et al. 2024 (zero terminal SNR), Hu et al. 2022 (LoRA).

Letters: B batch, R side of the picture in pixels, C × h × w a latent, L tokens, D width of the text states,
T training timesteps, V views of a picture (2 with flips), K captions of a picture.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image, ImageOps

from hub_models import autoencoder as autoencoder_contract
from hub_models import captioning as captioner_contract
from hub_models import classifier as judge_contract
from hub_models import clip as clip_contract
from hub_models import store
from hub_models import text_to_image as contract
from training import figures, judging, metrics, publish
from training.config import TrainConfig, parse
from training.data import captions
from training.data.cache import cached
from training.data.pairs import Pairs
from training.data.recoloured import Recoloured
from training.data.sources import DataError, Source, open_source
from training.diffusion import diffusion_loss, held_out_loss
from training.loop import fit
from training.mixture import Mixture
from training.optim import Player
from training.order import draw_seed

STEM = "text_to_image"
LORA_FILE = "pytorch_lora_weights.safetensors"
LORA_LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]  # the attention of a U-Net, as diffusers' own LoRA trainings have it
FIRST_GROUPS = ("smileys-emotion", "animals-nature", "food-drink", "travel-places", "activities", "objects")


@dataclass(frozen=True)
class TextToImageConfig(TrainConfig):
    """One text-to-image experiment."""

    # Where it starts
    vae_name_or_path: str = "emoji"  # autoencoder: bundled variant, folder or Hub id
    clip_name_or_path: str = "emoji"  # dual encoder whose text tower conditions: bundled variant, folder or Hub id
    pretrained_model_name_or_path: str | None = (
        None  # or: tune the U-Net of a StableDiffusionPipeline, with its own parts
    )
    lora_rank: int = 0  # train a LoRA of this rank on it, instead of all its weights; 0 = all weights
    # Data
    caption_column: str | None = (
        None  # column that holds the captions; None = "text" or "name", or the emoji's own forms
    )
    groups: tuple[str, ...] = ()  # emoji of these CLDR groups only; none = all
    styles: tuple[str, ...] = ()  # emoji of these styles only; none = all
    random_flip: bool = False  # off by default: arrows, hands and letters have a direction
    recoloured_share: float = 0.0  # share of samples that are recoloured emoji with the colour's word
    recolourings: int = (
        1  # other colours of each picture of one colour, where recoloured_share or pair_share is above 0
    )
    pair_share: float = 0.0  # share of samples that are two things and where they are
    pairs: int = 2500  # how many pictures of two things there are, where pair_share is above 0
    no_cache: bool = False  # make latents and text states anew in every step
    # U-Net
    block_out_channels: tuple[int, ...] = (128, 176)  # channels per resolution, finest first
    layers_per_block: int = 1  # residual blocks per resolution (one more on the way up)
    cross_attention_levels: tuple[bool, ...] = (False, True)  # where the U-Net reads the text; its middle always does
    attention_heads: int = 4
    norm_num_groups: int = 16
    # Condition
    caption_dropout: float = 0.1  # share of samples that see the states of "", for classifier-free guidance
    guidance_scale: float | None = None  # the default that the export carries; None = 3, or that of the checkpoint
    # Diffusion
    num_train_timesteps: int = 1000
    beta_schedule: Literal["scaled_linear", "squaredcos_cap_v2"] = (
        "squaredcos_cap_v2"  # the latter is the cosine schedule
    )
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"
    zero_terminal_snr: bool = False  # rescale the betas so that the last timestep is nothing but noise
    loss_weighting: Literal["simple", "min_snr"] = "min_snr"
    snr_gamma: float = 5.0  # of min-SNR
    # What is looked at
    validation_prompts: tuple[str, ...] = ()  # drawn at every validation; none = captions of training pictures

    def __post_init__(self):
        super().__post_init__()
        if self.lora_rank < 0 or (self.lora_rank and not self.pretrained_model_name_or_path):
            raise ValueError("--lora_rank needs --pretrained_model_name_or_path: a LoRA changes a model that is there")
        if not 0 <= self.caption_dropout < 1:
            raise ValueError(f"--caption_dropout must lie in [0, 1), got {self.caption_dropout}")
        if min(self.recoloured_share, self.pair_share) < 0 or self.recoloured_share + self.pair_share > 1:
            raise ValueError("--recoloured_share and --pair_share must be at least 0, and at most 1 together")
        if self.recolourings < 1 or self.pairs < 1:
            raise ValueError("--recolourings and --pairs must be at least 1; to have none, set their shares to 0")
        if len(self.cross_attention_levels) != len(self.block_out_channels):
            raise ValueError("--cross_attention_levels needs one value for each of --block_out_channels")
        if self.zero_terminal_snr and self.prediction_type == "epsilon":
            raise ValueError("--zero_terminal_snr needs --prediction_type v_prediction: ε says nothing of pure noise")


EMOJI = TextToImageConfig(
    output_dir="runs/text_to_image", resolution=128, groups=FIRST_GROUPS, train_batch_size=64, optimizer="muon",
    learning_rate=5e-3, lr_warmup_steps=300, ema_decay=0.999, max_train_steps=9_000, checkpointing_steps=250,
    validation_steps=1000,
    validation_prompts=(
        "grinning face", "a crying face, noto style", "a cat face", "an owl", "a red apple", "hamburger, 3d fluent style",
        "a birthday cake", "a sunflower", "an automobile", "rocket, flat fluent style", "a house", "a mountain",
        "a guitar", "a key, twemoji style", "a soccer ball", "a blue cat",
    ),
)  # fmt: skip
PRESETS = {
    "emoji": EMOJI,
    "emoji-all": dataclasses.replace(EMOJI, groups=()),
    "finetune": dataclasses.replace(
        EMOJI, pretrained_model_name_or_path="emoji", dataset_name="path/to/pictures", groups=(), train_batch_size=8,
        optimizer="adamw", learning_rate=1e-4, lr_warmup_steps=50, max_train_steps=1000, ema_decay=0.99, validation_steps=250,
        validation_prompts=(),
    ),
    "tiny": dataclasses.replace(
        EMOJI, dataset_name="emoji-sample", groups=(), resolution=32, block_out_channels=(16, 32), attention_heads=2,
        norm_num_groups=8, max_train_steps=2, train_batch_size=8, lr_warmup_steps=1, checkpointing_steps=1,
        validation_steps=2, logging_steps=1, validation_prompts=("a red apple", "a face, noto style"),
    ),
}  # fmt: skip


# ---- data ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Selection:
    """The pictures of a source that a config asks for, each with its captions."""

    source: Source
    rows: np.ndarray  # (N,) int64, rows of the source
    captions: list[list[str]]  # K captions of each, the plainest first
    names: list[str]  # what is in each; evaluations compare the plain captions of names
    prompts: list[str]  # what asks for this very picture: the plain caption, in its style

    def __len__(self) -> int:
        return len(self.rows)

    def picture(self, index: int) -> Image.Image:
        return self.source.picture(int(self.rows[index]))

    @property
    def data_hash(self) -> str:
        content = json.dumps([self.source.data_hash, self.rows.tolist(), self.captions])
        return hashlib.sha256(content.encode()).hexdigest()


def select(source: Source, *, groups: Sequence[str] = (), styles: Sequence[str] = (), own=False) -> Selection:
    """The rows of these groups and styles with their captions; own: the source's captions, not the emoji's forms.

    Raises SystemExit where nothing is left, with the groups and styles that there are.
    """
    rows = np.arange(len(source))
    for column, wanted in (("group", groups), ("style", styles)):
        if wanted:
            values = source.column(column)
            rows = np.array([row for row in rows if values[row] in wanted], dtype=np.int64)
            if unknown := set(wanted) - set(values):
                raise SystemExit(f"no {column} {sorted(unknown)} in {source.name}: {', '.join(sorted(set(values)))}")
    if not len(rows):
        raise SystemExit(f"{source.name} has no picture of these groups and styles together: name more of them")
    if own or not is_emoji(source):
        texts = [[contract.normalise_prompt(text) for text in source.captions(row)] for row in rows]
        first = [text[0] for text in texts]
        return Selection(source, rows, texts, first, first)
    columns = [source.column(name) for name in EMOJI_COLUMNS]
    about = [tuple(column[row] for column in columns) for row in rows]
    words = {style: f", {said} style" for style, said in captions.STYLE_WORDS.items()}
    prompts = [captions.plain(name) + words.get(style, "") for name, _, style in about]
    return Selection(source, rows, [captions.captions(*one) for one in about], [name for name, *_ in about], prompts)


EMOJI_COLUMNS = ("name", "keywords", "style")


def is_emoji(source: Source) -> bool:
    """Whether it has the columns that captions of emoji are made of."""
    try:
        return all(source.column(name) for name in EMOJI_COLUMNS)
    except DataError:
        return False


class LatentCaptions:
    """Training samples for `training.order.Samples`: a picture's latent or pixels, a caption or its states, the draws.

    {"mean", "std": (C, h, w)} from the cache, or {"pixels": (3, R, R)}; {"states": (L, D) fp16}, or {"caption": text};
    {"posterior", "noise": (C, h, w), "timestep": ()}. The draws are the same with the cache and without.
    """

    def __init__(self, selection: Selection | Recoloured | Pairs, model: contract.TextToImage, vae, cfg):
        self.selection, self.cfg, self.vae = selection, cfg, vae
        self.data_hash = selection.data_hash
        self.shape = model.latent_shape
        selection.source.preload(cfg.resolution)
        self.views = 2 if cfg.random_flip else 1
        self.latents = self.states = None
        if not cfg.no_cache:
            self.latents = cached_latents(selection, vae, self.views, cfg.resolution)
            self.states, number = cached_states(sorted({c for texts in selection.captions for c in texts}), model)
            self.numbers = [[number[text] for text in texts] for texts in selection.captions]

    def __len__(self) -> int:
        return len(self.selection)

    def sample(self, index: int, draw: torch.Generator) -> dict:
        view = int(torch.randint(self.views, (), generator=draw))
        which = int(torch.randint(len(self.selection.captions[index]), (), generator=draw))
        dropped = torch.rand((), generator=draw) < self.cfg.caption_dropout
        sample = {
            "timestep": torch.randint(self.cfg.num_train_timesteps, (), generator=draw),
            "noise": torch.randn(self.shape, generator=draw),
            "posterior": torch.randn(self.shape, generator=draw),
        }
        if self.cfg.no_cache:
            picture = view_of(self.selection.picture(index), view)
            sample["pixels"] = self.vae.preprocess([picture])[0].cpu()
            sample["caption"] = "" if dropped else self.selection.captions[index][which]
            return sample
        row = 0 if dropped else self.numbers[index][which]
        mean, std = torch.from_numpy(np.array(self.latents[index, view]))  # (C, h, w) ×2
        return sample | {"mean": mean, "std": std, "states": torch.from_numpy(np.array(self.states[row]))}


def samples_of(
    selection: Selection, model: contract.TextToImage, vae, cfg: TextToImageConfig
) -> LatentCaptions | Mixture:
    """What a config trains on; without shares of recoloured pictures and pairs the selection alone."""
    usual = LatentCaptions(selection, model, vae, cfg)
    if not cfg.recoloured_share + cfg.pair_share:
        return usual
    if not is_emoji(selection.source) or cfg.caption_column:
        raise SystemExit("--recoloured_share and --pair_share need the emoji's names and styles: set them to 0")
    tinted = Recoloured(selection, variants=cfg.recolourings, resolution_px=cfg.resolution, keep=not cfg.no_cache)
    parts = [(cfg.recoloured_share, tinted)]
    if cfg.pair_share:
        parts.append((cfg.pair_share, Pairs(selection, tinted, count=cfg.pairs)))
    return Mixture(usual, [(share, LatentCaptions(part, model, vae, cfg)) for share, part in parts if share])


def view_of(picture: Image.Image, view: int) -> Image.Image:
    return ImageOps.mirror(picture) if view else picture


def conditions(batch: dict, model: contract.TextToImage, vae) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (B, C, h, w), drawn from their posteriors, and text states (B, L, D) of a batch, cached or not."""
    device = batch["noise"].device
    if "mean" in batch:
        mean, std, states = batch["mean"], batch["std"], batch["states"]
    else:
        model.pipe.vae.to(device), model.pipe.text_encoder.to(device)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            mean, std = vae.encode_tensor(batch["pixels"])
            # fp16, as the cache has them
            states = model.text_states(batch["caption"]).half()
    return mean + std * batch["posterior"], states.float()


# ---- the cache -----------------------------------------------------------------------------------------------------------


def cached_latents(selection: Selection | Recoloured | Pairs, vae, views: int, resolution_px: int) -> np.ndarray:
    """Posterior mean and standard deviation of each view of each picture, float32 (N, V, 2, C, h, w), on disk."""

    def build(folder: Path) -> None:
        shape = (len(selection), views, 2, *vae.latent_shape)
        made = np.lib.format.open_memmap(folder / "latents.npy", "w+", np.float32, shape)
        for at in range(0, len(selection), 64):
            part = range(at, min(at + 64, len(selection)))
            for view in range(views):
                pair = vae.encode([view_of(selection.picture(i), view) for i in part])  # (B, C, h, w) ×2
                made[part.start : part.stop, view] = torch.stack(pair, dim=1).cpu().numpy()
        made.flush()
        print(f"latents of {len(selection)} pictures made once: {made.nbytes / 2**20:.0f} MiB", flush=True)

    key = {"data": selection.data_hash, "weights": vae.weights_sha256, "views": views, "resolution": resolution_px,
           "ground": list(vae.ground)}  # fmt: skip
    return np.load(cached("latents", key, build) / "latents.npy", mmap_mode="r")


def cached_states(texts: list[str], model: contract.TextToImage) -> tuple[np.ndarray, dict[str, int]]:
    """States of each text, float16 (M, L, D), on disk, and {text: its row}. Row 0 is that of ""."""
    texts = ["", *(text for text in texts if text)]

    def build(folder: Path) -> None:
        shape = (len(texts), *model.text_states([""]).shape[1:])
        made = np.lib.format.open_memmap(folder / "states.npy", "w+", np.float16, shape)
        for at in range(0, len(texts), 128):
            made[at : at + 128] = model.text_states(texts[at : at + 128]).half().cpu().numpy()
        made.flush()
        print(f"states of {len(texts)} captions made once: {made.nbytes / 2**20:.0f} MiB", flush=True)

    tokenizer = hashlib.sha256(json.dumps(sorted(model.pipe.tokenizer.get_vocab().items())).encode()).hexdigest()
    key = {"texts": hashlib.sha256(json.dumps(texts).encode()).hexdigest(), "tokenizer": tokenizer,
           "weights": tensors_sha256(model.pipe.text_encoder), "length": model.max_length}  # fmt: skip
    states = np.load(cached("states", key, build) / "states.npy", mmap_mode="r")
    return states, {text: row for row, text in enumerate(texts)}


def tensors_sha256(model: torch.nn.Module) -> str:
    """One hash of a model's weights, wherever they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# ---- the model -----------------------------------------------------------------------------------------------------------


def create_unet(cfg: TextToImageConfig, latent_shape: tuple[int, int, int], text_width: int) -> UNet2DConditionModel:
    """A stock UNet2DConditionModel for these latents, reading states of this width."""
    down = ["CrossAttnDownBlock2D" if cross else "DownBlock2D" for cross in cfg.cross_attention_levels]
    up = ["CrossAttnUpBlock2D" if cross else "UpBlock2D" for cross in reversed(cfg.cross_attention_levels)]
    return UNet2DConditionModel(
        sample_size=latent_shape[1], in_channels=latent_shape[0], out_channels=latent_shape[0],
        block_out_channels=cfg.block_out_channels, layers_per_block=cfg.layers_per_block, cross_attention_dim=text_width,
        attention_head_dim=cfg.attention_heads,  # diffusers calls the number of heads so
        norm_num_groups=cfg.norm_num_groups, down_block_types=tuple(down), up_block_types=tuple(up),
    )  # fmt: skip


def create_scheduler(cfg: TextToImageConfig) -> DDIMScheduler:
    """The noise schedule, as the scheduler that the stock pipeline will draw with."""
    return DDIMScheduler(
        num_train_timesteps=cfg.num_train_timesteps, beta_start=0.00085, beta_end=0.012, beta_schedule=cfg.beta_schedule,
        prediction_type=cfg.prediction_type, rescale_betas_zero_snr=cfg.zero_terminal_snr, clip_sample=False,
        timestep_spacing="trailing", steps_offset=1,
    )  # fmt: skip


def create_model(cfg: TextToImageConfig) -> tuple[contract.TextToImage, autoencoder_contract.Autoencoder]:
    """The pipeline whose U-Net is trained, and its autoencoder; from its parts or from a folder. All on the CPU.

    Raises CheckpointError for a folder that can't be opened, SystemExit for one that doesn't fit the config.
    """
    if name := cfg.pretrained_model_name_or_path:
        model = contract.load(name, device="cpu")
        if model.resolution_px != cfg.resolution:
            raise SystemExit(f"{name} draws {model.resolution_px} px: set --resolution {model.resolution_px}")
        pipe, vae = model.pipe, autoencoder_contract.load(str(store.resolve(STEM, name) / "vae"), device="cpu")
        pipe.vae = vae.vae
        pipe.unet.requires_grad_(not cfg.lora_rank).train()
    else:
        vae, clip = (
            autoencoder_contract.load(cfg.vae_name_or_path, "cpu"),
            clip_contract.load(cfg.clip_name_or_path, "cpu"),
        )
        vae.resolution_px = cfg.resolution
        if cfg.resolution % vae.reduction:
            raise SystemExit(
                f"--resolution {cfg.resolution} is no multiple of {vae.reduction}, the autoencoder's reduction"
            )
        if clip.model.config.model_type != "vision-text-dual-encoder":
            raise SystemExit(f"{cfg.clip_name_or_path} is a {clip.model.config.model_type}, whose text tower is no model of "
                             "its own: name a VisionTextDualEncoderModel, such as training/clip.py exports")  # fmt: skip
        tower = clip.model.text_model
        pipe = StableDiffusionPipeline(
            vae=vae.vae, text_encoder=tower, tokenizer=clip.tokenizer, scheduler=create_scheduler(cfg),
            unet=create_unet(cfg, vae.latent_shape, tower.config.hidden_size), safety_checker=None,
            feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    if vae.vae.config.shift_factor:
        raise SystemExit("this autoencoder has a shift_factor, which StableDiffusionPipeline ignores: fold it into the "
                         "weights (hub_models.autoencoder.centred) and save it again")  # fmt: skip
    pipe.text_encoder.eval().requires_grad_(False)
    if cfg.lora_rank:
        from peft import LoraConfig

        pipe.unet.add_adapter(LoraConfig(r=cfg.lora_rank, lora_alpha=cfg.lora_rank, target_modules=LORA_LAYERS))
    vae.preview(torch.zeros(1, *vae.latent_shape))  # fits the linear map, where the folder has none
    extra = {
        "guidance_scale": 3.0,
        "default_steps": 10,
        "default_sampler": "dpm++",
        "styles": list(captions.STYLE_WORDS.values()) if cfg.dataset_name.startswith("emoji") else [],
    }
    if cfg.pretrained_model_name_or_path:
        extra = model.extra
    if cfg.guidance_scale is not None:
        extra["guidance_scale"] = cfg.guidance_scale
    extra |= {
        "resolution_px": cfg.resolution,
        "ground": list(vae.ground),
        "latent_to_rgb": np.round(vae.latent_to_rgb.double().cpu().numpy(), 6).tolist(),
        "latent_to_rgb_bias": np.round(vae.latent_to_rgb_bias.double().cpu().numpy(), 6).tolist(),
    }
    if torch.cuda.is_available() and not cfg.cpu:
        pipe.to("cuda")
    return contract.TextToImage(pipe, name="in training", **extra), vae


class Adapter(torch.nn.Module):
    """The LoRA of a U-Net as a module of its own: what is trained, averaged, saved and resumed is the LoRA alone."""

    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        self.__dict__["unet"] = unet  # no submodule: its own weights belong to nobody here
        self.layers = torch.nn.ParameterList([p for p in unet.parameters() if p.requires_grad])

    def forward(self, *args, **kwargs):
        return self.unet(*args, **kwargs)

    def train(self, mode: bool = True):
        self.unet.train(mode)
        return super().train(mode)


class Strata:
    """Fixed pictures and captions of a selection to measure a loss on: see `training.diffusion.held_out_loss`."""

    def __init__(self, selection: Selection, model: contract.TextToImage, vae, pictures: int = 48):
        rows = np.linspace(0, len(selection) - 1, min(pictures, len(selection))).astype(int)
        selection.source.preload(vae.resolution_px)
        self.mean, _ = vae.encode([selection.picture(i) for i in rows])  # (N, C, h, w)
        self.states = model.text_states([selection.captions[i][0] for i in rows])  # (N, L, D)

    def loss(self, unet, scheduler) -> float:
        return held_out_loss(unet, scheduler, self.mean, encoder_hidden_states=self.states)


def draw(model: contract.TextToImage, prompts: Sequence[str], seed: int, *, batch_size=16, **settings) -> np.ndarray:
    """One picture per prompt, uint8 (N, R, R, 3), at the model's defaults or `settings`; picture i has seed f(seed, i)."""
    made = []
    for at in range(0, len(prompts), batch_size):
        part = list(prompts[at : at + batch_size])
        *_, last = model.generate(part, [draw_seed("draw", seed, at + i) for i in range(len(part))], **settings)
        made += [np.asarray(picture) for picture in model.decode(last.latents)]
    return np.stack(made)


def main(argv: list[str] | None = None) -> None:
    cfg = parse(PRESETS, argv, description=__doc__)
    columns = {"dataset_config_name": cfg.dataset_config_name, "image_column": cfg.image_column,
               "caption_column": cfg.caption_column}  # fmt: skip
    chosen = {"groups": cfg.groups, "styles": cfg.styles, "own": cfg.caption_column is not None}
    train = select(open_source(cfg.dataset_name, split="train", skin_tones=cfg.skin_tones, **columns), **chosen)
    held_out = select(open_source(cfg.dataset_name, split="validation", **columns), **chosen)
    torch.manual_seed(cfg.seed)
    model, vae = create_model(cfg)
    cfg = dataclasses.replace(cfg, num_train_timesteps=model.num_train_timesteps)
    scheduler = DDPMScheduler.from_config(model.pipe.scheduler.config)
    strata = {"loss": Strata(held_out, model, vae), "train_loss": Strata(train, model, vae)}
    samples = samples_of(train, model, vae, cfg)
    prompts = list(cfg.validation_prompts) or [texts[0] for texts in train.captions[:: max(1, len(train) // 16)]][:16]

    def loss_fn(unet, batch):
        latents, states = conditions(batch, model, vae)
        gamma = cfg.snr_gamma if cfg.loss_weighting == "min_snr" else None
        error = diffusion_loss(unet, scheduler, latents, batch["noise"], batch["timestep"], snr_gamma=gamma,
                               encoder_hidden_states=states)  # fmt: skip
        return error.mean(), {}

    def evaluate(unet):
        return {name: part.loss(unet, scheduler) for name, part in strata.items()}

    def draw_samples(unet):
        return figures.sheet(draw(model, prompts, seed=0), columns=8)

    def export(unet, folder, run):
        facts = run | describe(cfg, train, model, argv)
        if cfg.lora_rank:
            return publish.write_export(folder, lambda target: save_lora(target, model.pipe.unet, cfg), facts)
        return publish.write_export(folder, lambda target: save(target, model, vae, cfg), facts)

    trained = Adapter(model.pipe.unet) if cfg.lora_rank else model.pipe.unet
    fit(
        [Player(trained, loss_fn)],
        samples,
        cfg,
        run_dir=cfg.output_dir,
        evaluate=evaluate,
        draw_samples=draw_samples,
        export=export,
    )
    if cfg.push_to_hub:
        publish.push_export(Path(cfg.output_dir, "export"), cfg.hub_model_id, private=cfg.hub_private)


def save(folder: Path, model: contract.TextToImage, vae, cfg: TextToImageConfig) -> None:
    """The stock pipeline; its vae/ is a folder of `hub_models.autoencoder`, with the card of its own, if it has one."""
    contract.save_folder(folder, model.pipe, **model.extra)
    autoencoder_contract.save_folder(folder / "vae", vae)
    source = cfg.pretrained_model_name_or_path
    home = store.resolve(STEM, source) / "vae" if source else autoencoder_contract.resolve(cfg.vae_name_or_path)
    for path in sorted(home.iterdir()):
        if path.suffix in (".md", ".png") or path.name in (publish.RUN, publish.RESULTS):
            shutil.copyfile(path, folder / "vae" / path.name)


def save_lora(folder: Path, unet: UNet2DConditionModel, cfg: TextToImageConfig) -> None:
    """What stock `load_lora_weights` opens, and config.json, which says what it was trained on."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, weight_name=LORA_FILE)
    about = {"base_model_name_or_path": base_of(cfg), "peft_type": "LORA", "r": cfg.lora_rank,
             "target_modules": LORA_LAYERS}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(about, indent=2) + "\n")


def base_of(cfg: TextToImageConfig) -> str | None:
    """The Hub id or bundled name that is tuned; of a folder on this machine, its last part."""
    name = cfg.pretrained_model_name_or_path
    return Path(name).name if name and Path(name).exists() else name


def describe(cfg: TextToImageConfig, train: Selection, model: contract.TextToImage, argv: list[str] | None) -> dict:
    """What the card says of this model beside what the loop knows."""
    side, emoji, lora = cfg.resolution, cfg.dataset_name.startswith("emoji"), bool(cfg.lora_rank)
    data = "emoji art in five styles" if emoji else cfg.dataset_name
    drawn = f"{len(set(train.names)):,} names" + (f", of the groups {', '.join(cfg.groups)}" if cfg.groups else "")
    usage = "from diffusers import DiffusionPipeline\n\n"
    if lora:
        usage += f'pipe = DiffusionPipeline.from_pretrained("{base_of(cfg)}")\npipe.load_lora_weights("org/name")\n'
    else:
        usage += 'pipe = DiffusionPipeline.from_pretrained("org/name")\n'
    prompt = "a red apple" if emoji else train.captions[0][0]
    usage += f"picture = pipe({json.dumps(prompt)}, num_inference_steps=10, guidance_scale={model.default_guidance:g}).images[0]"
    kind = "A LoRA" if lora else "Latent diffusion"
    trained = sum(p.numel() for p in model.pipe.unet.parameters() if p.requires_grad)
    return {
        "stem": STEM,
        "name": "lora" if lora else "emoji" if emoji else "text-to-image",
        "title": f"{'LoRA for ' + str(base_of(cfg)) if lora else 'Text to image'}, {side} px",
        "summary": f"{kind} that draws {side} × {side} pictures from a prompt: stock StableDiffusionPipeline, "
                   f"{trained / 1e6:.1f}M trained parameters in the U-Net, {model.pipe.scheduler.config.prediction_type}. "
                   f"Training data: {data}; {len(train):,} pictures, {drawn}.",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "diffusers", "diffusers-training", "stable-diffusion", "stable-diffusion-diffusers"]
                + ["lora"] * lora,
        "license": publish.license_of(train.source.licenses),
        "datasets": [] if emoji else [cfg.dataset_name],
        "base_model": cfg.pretrained_model_name_or_path,
        "command": publish.command_line(STEM, argv),
        "parameters": trained if lora else model.parameters,
        "attributions": list(publish.ATTRIBUTIONS.values()) if emoji else [],
        "usage": usage,
        "limits": [f"It draws {side} × {side} pixels, many of them only roughly like what was asked for.",
                   f"Its text tower reads {model.max_length} tokens; the rest of a prompt is cut."]
        + (["It has seen drawn emoji only, and draws nothing else."] if emoji else []),
    }  # fmt: skip


# ---- evaluation ------------------------------------------------------------------------------------------------------------


def evaluate_checkpoint(name: str, dataset_name: str, *, pictures: int = 200) -> tuple[dict, dict]:
    """Metrics of a saved model, the fields of results.json, and figures by name. On the groups and styles it was trained on.

    retrieval_precision: share of drawn pictures whose own caption comes first among 100 by the bundled CLIP (one picture
    each for 200 training captions with their style, and for 100 held-out pairs; captions are compared in their plain form);
    retrieval_precision_real, and the baseline, are the same for the real pictures of these captions. kid_x1000: kernel
    inception distance (Bińkowski 2018) in the feature space of the bundled classifier "swin", between pictures drawn for
    the captions of validation and held-out pairs, and the pictures there; the baseline is training pictures against
    them. colours/…: see `training.judging`. held_out_loss: see `Strata`. nearest_train_distance: median root mean square distance in [0, 1] pixels, at 32 px,
    to the nearest training picture, beside that of real held-out pictures; far below that would be copying.
    """
    model, folder = contract.load(name), store.resolve(STEM, name)
    chosen = trained_on(folder)
    emoji = dataset_name.startswith("emoji")
    train = select(open_source(dataset_name, split="train"), **chosen)
    validation = select(open_source(dataset_name, split="validation"), **chosen)
    pairs = select(open_source(dataset_name, split="heldout_pairs"), **chosen) if emoji else validation
    judge, space = clip_contract.load("emoji"), judge_contract.load("swin")
    vae = autoencoder_contract.load(str(folder / "vae"), device=model.device)
    scheduler = DDPMScheduler.from_config(model.pipe.scheduler.config)

    scores: dict[str, float] = {}
    baseline: dict[str, float] = {}
    drawn: dict[str, np.ndarray] = {}
    sets = (("train", train, pictures, 1), ("heldout_pairs", pairs, pictures // 2, 2))
    for split, part, count, seed in sets:
        rows = distinct_rows(part, count)
        drawn[split] = draw(model, [part.prompts[row] for row in rows], seed)
        names = sorted(set(train.names) | set(part.names))
        real = np.stack([bytes_of(part.picture(row), model) for row in rows])
        for kind, images, into in (("", drawn[split], scores), ("_real", real, scores), ("", real, baseline)):
            into[f"{split}/retrieval_precision{kind}"] = retrieval_precision(
                judge, images, [part.names[row] for row in rows], names
            )
    rows = distinct_rows(validation, pictures)
    drawn["validation"] = draw(model, [validation.prompts[row] for row in rows], 3)

    real = np.concatenate([pictures_of(part, model) for part in ([validation, pairs] if emoji else [validation])])
    known = pictures_of(train, model)
    mixed = np.concatenate([drawn["validation"], drawn["heldout_pairs"]])
    judges = {
        "retrieval_precision": f"clip/emoji {judge.weights_sha256[:12]}",
        "kid": f"classifier/swin {space.weights_sha256[:12]}",
    }
    features = {
        key: metrics.in_batches(space.features, value)
        for key, value in (("drawn", mixed), ("real", real), ("train", known))
    }
    kid, kid_std = metrics.kernel_inception_distance(features["drawn"], features["real"])
    floor, _ = metrics.kernel_inception_distance(features["train"], features["real"])
    near = {key: float(np.median(metrics.nearest_distances(metrics.rms_rows(small(value)), metrics.rms_rows(small(known)))[1]))
            for key, value in (("drawn", drawn["train"]), ("real", real))}  # fmt: skip
    scores |= {
        "kid_x1000": 1000 * kid,
        "kid_x1000_std": 1000 * kid_std,
        "held_out_loss": Strata(validation, model, vae).loss(model.pipe.unet, scheduler),
        "nearest_train_distance": near["drawn"],
        "pictures": sum(map(len, drawn.values())),
    }
    if emoji and (real_colours := judging.painted(train)):
        captioner, asked = captioner_contract.load("emoji"), [prompt for *_, prompt in judging.colour_prompts()]
        real = np.stack([bytes_of(picture, model) for picture in real_colours])
        for images, into in ((draw(model, asked, 4), scores), (real, baseline)):
            into |= {f"colours/{key}": value for key, value in judging.colour_scores(images, captioner).items()}
        judges["colours"] = f"captioning/emoji {captioner.weights_sha256[:12]}"
    baseline |= {"kid_x1000": 1000 * floor, "nearest_train_distance": near["real"]}
    results = {
        "metrics": scores,
        "baseline": baseline,
        "baseline_name": "real pictures",
        "per_class": {},
        "curves": {},
        "data_hash": "-".join(part.source.data_hash[:12] for part in (validation, pairs)),
        "judges": judges,
        "settings": {
            "sampler": model.default_sampler,
            "steps": model.default_steps,
            "guidance": model.default_guidance,
        },
        "restricted_to": chosen,
    }
    shown = np.concatenate([drawn["train"][:48], drawn["heldout_pairs"][:16], drawn["validation"][:16]])
    return results, {"samples": figures.sheet(shown, 16)}


def trained_on(folder: Path) -> dict[str, tuple[str, ...]]:
    """The groups and styles that the model of a folder was trained on, as `select` takes them; empty where all, or unknown."""
    run = json.loads((folder / publish.RUN).read_text()) if (folder / publish.RUN).is_file() else {}
    return {key: tuple(run.get("config", {}).get(key, ())) for key in ("groups", "styles")}


def distinct_rows(selection: Selection, count: int) -> list[int]:
    """At most `count` rows of distinct names, in a fixed random order."""
    seen, rows = set(), []
    for row in np.random.default_rng(0).permutation(len(selection)):
        if selection.names[row] not in seen and len(rows) < count:
            seen.add(selection.names[row])
            rows.append(int(row))
    return rows


def retrieval_precision(
    judge: clip_contract.CLIP, images: np.ndarray, names: list[str], pool: list[str], of=100
) -> float:
    """Share of images uint8 (N, R, R, 3) whose own plain caption is the nearest of `of`: it and others of the pool."""
    own = embed_texts(judge, names)  # (N, D)
    others = embed_texts(judge, pool)  # (M, D)
    seen = np.concatenate([np.asarray(judge.embed_images([Image.fromarray(p) for p in images[at : at + 64]]).cpu())
                           for at in range(0, len(images), 64)])  # fmt: skip
    right = 0
    for i, name in enumerate(names):
        rest = [k for k, other in enumerate(pool) if other != name]
        rest = np.random.default_rng(draw_seed("retrieval", i)).permutation(rest)[: of - 1]
        right += bool((seen[i] @ own[i] > others[rest] @ seen[i]).all())
    return right / len(names)


def embed_texts(judge: clip_contract.CLIP, names: list[str]) -> np.ndarray:
    """Unit rows (N, D) of the plain captions of names."""
    parts = [[captions.plain(name) for name in names[at : at + 256]] for at in range(0, len(names), 256)]
    return np.concatenate([np.asarray(judge.embed_texts(part).cpu()) for part in parts])


def bytes_of(picture: Image.Image, model: contract.TextToImage) -> np.ndarray:
    """A real picture as the model would draw it, uint8 (R, R, 3)."""
    return np.asarray(model.frame(picture))


def pictures_of(selection: Selection, model: contract.TextToImage) -> np.ndarray:
    """All pictures of a selection, uint8 (N, R, R, 3)."""
    selection.source.preload(model.resolution_px)
    return np.stack([bytes_of(selection.picture(i), model) for i in range(len(selection))])


def small(pictures: np.ndarray, side_px: int = 32) -> np.ndarray:
    """Pictures uint8 (N, R, R, 3) area-averaged to (N, side_px, side_px, 3)."""
    return np.stack([np.asarray(Image.fromarray(p).resize((side_px, side_px), Image.Resampling.BOX)) for p in pictures])


if __name__ == "__main__":
    main()
