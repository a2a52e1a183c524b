"""The pipeline whose U-Net is trained: from an autoencoder and a CLIP, or that of a checkpoint; and how it is saved."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file

from hub_models import autoencoder as autoencoder_contract
from hub_models import clip as clip_contract
from hub_models import text_to_image as contract
from hub_models.publish import paths
from hub_models.text_to_image import lora
from training import publish
from training.config import require_resolution
from training.text_to_image.config import TextToImageConfig

STEM = "text_to_image"
LORA_FILE = lora.FILE
LORA_LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]  # the attention of a U-Net, as diffusers' own LoRA trainings have it


def create_model(
    cfg: TextToImageConfig, *, styles: Sequence[str] = ()
) -> tuple[contract.TextToImage, autoencoder_contract.Autoencoder]:
    """The pipeline whose U-Net is trained, and its autoencoder; from its parts or from a folder. All on the CPU.

    styles: words for styles that prompts may have, where the pipeline is a new one.

    Raises CheckpointError for a folder that can't be opened, SystemExit for one that doesn't fit the config.
    """
    if name := cfg.pretrained_model_name_or_path:
        model = contract.load(name, device="cpu")
        require_resolution(cfg, model.resolution_px, "draws")
        pipe, vae = model.pipe, autoencoder_contract.load(str(contract.resolve(name) / "vae"), device="cpu")
        pipe.vae = vae.vae
        pipe.unet.requires_grad_(not cfg.lora_rank).train()
    else:
        vae = autoencoder_contract.load(cfg.vae_name_or_path, "cpu")
        clip = clip_contract.load(cfg.clip_name_or_path, "cpu")
        vae.resolution_px = cfg.resolution
        if cfg.resolution % vae.reduction:
            raise SystemExit(
                f"--resolution {cfg.resolution} is no multiple of {vae.reduction}, the autoencoder's reduction"
            )
        if clip.model.config.model_type != "vision-text-dual-encoder":
            kind = clip.model.config.model_type
            raise SystemExit(
                f"{cfg.clip_name_or_path} is a {kind}, whose text tower is no model of its own: name a "
                "VisionTextDualEncoderModel, such as training.clip exports"
            )
        tower = clip.model.text_model
        pipe = StableDiffusionPipeline(
            vae=vae.vae, text_encoder=tower, tokenizer=clip.tokenizer, scheduler=create_scheduler(cfg),
            unet=create_unet(cfg, vae.latent_shape, tower.config.hidden_size), safety_checker=None,
            feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    if vae.vae.config.shift_factor:
        raise SystemExit(
            "this autoencoder has a shift_factor, which StableDiffusionPipeline ignores: fold it into the "
            "weights (hub_models.autoencoder.centred) and save it again"
        )
    pipe.text_encoder.eval().requires_grad_(False)
    if cfg.lora_rank:
        from peft import LoraConfig

        pipe.unet.add_adapter(LoraConfig(r=cfg.lora_rank, lora_alpha=cfg.lora_rank, target_modules=LORA_LAYERS))
    weight, bias = vae.linear_map()
    extra: dict = {"guidance_scale": 3.0, "default_steps": 10, "default_sampler": "dpm++", "styles": list(styles)}
    if cfg.pretrained_model_name_or_path:
        extra = model.extra
    if cfg.guidance_scale is not None:
        extra["guidance_scale"] = cfg.guidance_scale
    extra |= {
        "resolution_px": cfg.resolution,
        "ground": list(vae.ground),
        "latent_to_rgb": np.round(weight.double().cpu().numpy(), 6).tolist(),
        "latent_to_rgb_bias": np.round(bias.double().cpu().numpy(), 6).tolist(),
    }
    if torch.cuda.is_available() and not cfg.cpu:
        pipe.to("cuda")
    return contract.TextToImage(pipe, name="in training", **extra), vae


def create_unet(cfg: TextToImageConfig, latent_shape: tuple[int, int, int], text_width: int) -> UNet2DConditionModel:
    """A stock UNet2DConditionModel for these latents, reading states of this width."""
    down = ["CrossAttnDownBlock2D" if cross else "DownBlock2D" for cross in cfg.cross_attention_levels]
    up = ["CrossAttnUpBlock2D" if cross else "UpBlock2D" for cross in reversed(cfg.cross_attention_levels)]
    return UNet2DConditionModel(
        sample_size=latent_shape[1], in_channels=latent_shape[0], out_channels=latent_shape[0],
        block_out_channels=cfg.block_out_channels, layers_per_block=cfg.layers_per_block,
        cross_attention_dim=text_width, attention_head_dim=cfg.attention_heads,  # diffusers calls their number so
        norm_num_groups=cfg.norm_num_groups, down_block_types=tuple(down), up_block_types=tuple(up),
    )  # fmt: skip


def create_scheduler(cfg: TextToImageConfig) -> DDIMScheduler:
    """The noise schedule, as the scheduler that the stock pipeline will draw with."""
    return DDIMScheduler(
        num_train_timesteps=cfg.num_train_timesteps, beta_start=0.00085, beta_end=0.012,
        beta_schedule=cfg.beta_schedule, prediction_type=cfg.prediction_type,
        rescale_betas_zero_snr=cfg.zero_terminal_snr, clip_sample=False, timestep_spacing="trailing", steps_offset=1,
    )  # fmt: skip


class Adapter(torch.nn.Module):
    """The LoRA of a U-Net as a module of its own: what is trained, averaged, saved and resumed is the LoRA alone."""

    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        self.unet: UNet2DConditionModel
        self.__dict__["unet"] = unet  # no submodule: its own weights belong to nobody here
        self.layers = torch.nn.ParameterList([p for p in unet.parameters() if p.requires_grad])

    def forward(self, *args, **kwargs):
        return self.unet(*args, **kwargs)

    def train(self, mode: bool = True):
        self.unet.train(mode)
        return super().train(mode)


def save(folder: Path, model: contract.TextToImage, vae, cfg: TextToImageConfig) -> None:
    """The stock pipeline; its vae/ is a folder of `hub_models.autoencoder`, with the card of its own, if it has one."""
    contract.save_folder(folder, model.pipe, **model.extra)
    autoencoder_contract.save_folder(folder / "vae", vae)
    source = cfg.pretrained_model_name_or_path
    home = contract.resolve(source) / "vae" if source else autoencoder_contract.resolve(cfg.vae_name_or_path)
    for path in sorted(home.iterdir()):
        if path.suffix in (".md", ".png") or path.name in (publish.RUN, publish.RESULTS):
            shutil.copyfile(path, folder / "vae" / path.name)


def save_lora(folder: Path, unet: UNet2DConditionModel, cfg: TextToImageConfig) -> None:
    """What stock `load_lora_weights` opens, under the names that the config asks for, and config.json: its base."""
    from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
    from peft.utils import get_peft_model_state_dict

    layers = get_peft_model_state_dict(unet)
    if cfg.lora_format == "diffusers":
        layers = convert_state_dict_to_diffusers(layers)
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, weight_name=LORA_FILE)
    else:
        layers = convert_state_dict_to_kohya({f"unet.{name}": value for name, value in layers.items()})
        layers = {name: value.detach().cpu().float().contiguous() for name, value in layers.items()}
        about = {"format": "pt", "ss_network_module": "networks.lora", "ss_network_dim": str(cfg.lora_rank),
                 "ss_network_alpha": str(cfg.lora_rank)}  # fmt: skip
        save_file(layers, folder / LORA_FILE, metadata=about)
    about = {"base_model_name_or_path": base_of(cfg), "peft_type": "LORA", "r": cfg.lora_rank}
    about["target_modules"] = LORA_LAYERS
    (folder / "config.json").write_text(json.dumps(about, indent=2) + "\n")


def base_of(cfg: TextToImageConfig) -> str | None:
    """The Hub id or bundled name that is tuned; of a folder on this machine, what it is called."""
    name = cfg.pretrained_model_name_or_path
    return paths.called(name) if name and Path(name).exists() else name
