"""Tiny random models in the stock layouts, made in a second: what tests hand to code that serves or tunes real ones."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import timm
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from PIL import Image, ImageDraw
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    Deimv2Config,
    Deimv2ForObjectDetection,
    DetrConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
    RTDetrImageProcessor,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SwinConfig,
    SwinModel,
    VisionEncoderDecoderModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
)
from transformers.models.maskformer.configuration_maskformer_swin import MaskFormerSwinConfig

from hub_models.store import file_sha256

WORDS = "a an of the red green blue apple face cat dog house car flag heart in style flat noto emoji drawing".split()
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,-'"


def bert_tokenizer(max_length: int = 12) -> BertTokenizer:
    """A BertTokenizer of a few words and all letters."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS), *WORDS]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return BertTokenizer(vocab=vocab, do_lower_case=True, model_max_length=max_length)


def clip_tokenizer(max_length: int = 12) -> CLIPTokenizer:
    """A CLIPTokenizer whose pieces are single letters and a few words."""
    letters = [chr(c) for c in range(ord("!"), ord("~") + 1)]
    words = [word for word in WORDS if len(word) > 1]
    merges, pieces = [], []
    for word in words:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            pieces.append(parts[0])
    vocab = [*letters, *(f"{c}</w>" for c in letters), *pieces, "<|startoftext|>", "<|endoftext|>"]
    numbered = {piece: number for number, piece in enumerate(dict.fromkeys(vocab))}
    return CLIPTokenizer(vocab=numbered, merges=list(dict.fromkeys(merges)), model_max_length=max_length)


def stable_diffusion(
    folder: Path | str,
    *,
    text: str = "clip",
    prediction_type: str = "epsilon",
    beta_schedule: str = "scaled_linear",
    channels: int = 4,
    extra: dict | None = None,
    seed: int = 0,
) -> Path:
    """A folder of a stock StableDiffusionPipeline that draws 32 × 32 noise of its own; returns the folder.

    text: "clip" has a CLIPTextModel, as Stable Diffusion; "bert" a BertModel, as ours.
    extra: contents of preprocessor_config.json; None writes none, as in a foreign folder.
    """
    torch.manual_seed(seed)
    if text == "clip":
        tokenizer = clip_tokenizer()
        tower = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=12,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    else:
        tokenizer = bert_tokenizer()
        tower = BertModel(
            BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=12,
            )
        )
    for parameter in tower.parameters():  # louder than at the start of a training, so that words make a difference
        parameter.data.mul_(4) if parameter.ndim > 1 else None
    pipe = StableDiffusionPipeline(
        vae=autoencoder(channels), text_encoder=tower, tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=8, in_channels=channels, out_channels=channels, block_out_channels=(16, 32),
            layers_per_block=1, norm_num_groups=8, cross_attention_dim=32, attention_head_dim=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule=beta_schedule, prediction_type=prediction_type,
            clip_sample=False, timestep_spacing="trailing", steps_offset=1,
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder, safe_serialization=True)
    if extra is not None:
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(extra))
    return Path(folder)


def autoencoder(channels: int = 4) -> AutoencoderKL:
    """A random AutoencoderKL from 32 × 32 pictures to 8 × 8 latents."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=channels,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=2.0,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
    ).eval()
    vae.quant_conv.bias.data[channels:] -= 8  # surer of its latents than a fresh one
    return vae


def autoencoder_folder(folder: Path | str, channels: int = 4) -> Path:
    """A folder of a random autoencoder, as `hub_models.autoencoder` has it."""
    from hub_models import autoencoder as contract

    torch.manual_seed(0)
    contract.save_folder(Path(folder), contract.Autoencoder(autoencoder(channels)))
    return Path(folder)


def vector_autoencoder(label_names=("a", "b")):
    """A random autoencoder of 8 × 8 pictures with one vector each, and a Gaussian of it for each label."""
    from hub_models import autoencoder as contract
    from hub_models.latents import LatentSpace

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8,) * 4, norm_num_groups=4, sample_size=8, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, mid_block_add_attention=False, scaling_factor=1.0,
    ).eval().requires_grad_(False)  # fmt: skip
    _loud(vae)
    means = 3 * torch.eye(len(label_names), 4)
    space = LatentSpace(label_names, means, torch.eye(4).expand(len(label_names), -1, -1))
    return contract.Autoencoder(vae, space=space, name="tiny", weights_sha256="0" * 64)


def unet(
    side_px: int = 16, channels: tuple[int, int] = (16, 32), classes: int | None = None, attention: bool = False
) -> UNet2DModel:
    """A random U-Net on pixels."""
    kind = "Attn" if attention else ""
    return UNet2DModel(
        sample_size=side_px,
        block_out_channels=channels,
        layers_per_block=1,
        norm_num_groups=channels[0] // 2,
        down_block_types=("DownBlock2D", f"{kind}DownBlock2D"),
        up_block_types=(f"{kind}UpBlock2D", "UpBlock2D"),
        num_class_embeds=classes,
    ).eval()


def ddpm_folder(folder: Path | str, label_names=("a", "b")) -> Path:
    """A folder of a random DDPM of 8 × 8 pictures and 20 steps, conditional on these labels or none."""
    from hub_models import ddpm as contract

    torch.manual_seed(0)
    contract.save_folder(
        folder,
        unet(8, (8, 8), len(label_names) + 1),
        DDPMScheduler(num_train_timesteps=20),
        label_names=label_names,
        null_label=len(label_names),
        resolution_px=8,
        guidance_scale=2.0,
    )
    return Path(folder)


def energy_folder(folder: Path | str, label_names=("a", "b")) -> Path:
    """A folder of a random energy-based model of 16 × 16 pictures, which differ to it."""
    from hub_models import energy as contract

    torch.manual_seed(0)
    network = contract.EnergyNetwork(len(label_names), 16, [4, 8], 1).eval()
    for parameter in network.parameters():
        parameter.data.mul_(3) if parameter.ndim > 1 else None
    known = [float(number) for number in range(contract.QUANTILES)]
    contract.save_folder(
        folder, contract.EnergyModel(network, label_names=label_names, steps=3, energy_quantiles=known)
    )
    return Path(folder)


def gan_folder(folder: Path | str, label_names=("a", "b"), kind: str = "style") -> Path:
    """A folder of a random GAN of 8 × 8 pictures with these labels."""
    from hub_models import gan as contract

    torch.manual_seed(0)
    names = list(label_names)
    made = contract.Generator(kind, [16, 8], 4, names), contract.Discriminator([16, 8], len(names))
    contract.save_folder(folder, contract.GAN(*(module.eval() for module in made)))
    return Path(folder)


def translation_folder(folder: Path | str, style_names=("a", "b")) -> Path:
    """A folder of a random translator of 16 × 16 pictures into these styles."""
    from hub_models import translation as contract

    torch.manual_seed(0)
    names = list(style_names)
    made = contract.StyleUNet([8, 16], 4, 16, names), contract.PatchDiscriminator([8, 8], len(names), True)
    contract.save_folder(folder, contract.Translator(*(module.eval() for module in made)))
    return Path(folder)


def ladder_folder(folder: Path | str, label_names=("a", "b")) -> Path:
    """A folder of a random hierarchical VAE of 16 × 16 pictures, whose lower level does something."""
    from hub_models import ladder as contract

    torch.manual_seed(0)
    model = contract.LadderVAE(16, [8, 8, 16], 4, 2, list(label_names), 0.2).eval()
    torch.nn.init.normal_(model.prior.weight, std=0.5)
    contract.save_folder(folder, contract.Ladder(model))
    return Path(folder)


def tokens(model: str = "gpt2", codes: bool = True, label_names=("a", "b")):
    """A random model over 16 symbols of 8 × 8 pictures: "gpt2" or "pixelcnn", over a VQ-VAE's codes or a palette."""
    from hub_models import tokens as contract
    from training import tokens

    torch.manual_seed(0)
    cfg = dataclasses.replace(tokens.PRESETS["tiny"], model=model)
    colours = torch.randint(256, (cfg.vocabulary, 3)).tolist()
    alphabet = contract.Palette(colours, 8) if not codes else contract.Codes(tokens.vq.create_vq(cfg).eval(), 8)
    if codes:
        alphabet.vq.quantize.embedding.weight.data.normal_()
    made = tokens.create_model(cfg, alphabet, len(label_names)).eval()
    _loud(made)
    return contract.Tokens(made, alphabet, label_names=label_names, guidance_scale=2.0)


def tokens_folder(folder: Path | str) -> Path:
    """A folder of a random GPT-2 over the codes of a random VQ-VAE."""
    from hub_models import tokens as contract

    contract.save_folder(Path(folder), tokens())
    return Path(folder)


def classifier(folder: Path | str, label_names=("a", "b", "c")) -> Path:
    """A folder of a random ViT for 32 × 32 pictures."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=len(label_names), **VIT)
    return save_classifier(folder, model, label_names)


def save_classifier(folder: Path | str, model: torch.nn.Module, label_names) -> Path:
    own = {"num_classes": len(label_names), "label_names": list(label_names)}
    timm.models.save_for_hf(model, str(folder), model_config=own, model_args=VIT, safe_serialization=True)
    return Path(folder)


def tower(folder: Path | str, kind: str = "vit", **args) -> Path:
    """A folder of a random tower for 32 × 32 pictures, "vit" or "swin", without classes; args: over its sizes."""
    from hub_models import pretrain as contract
    from training import pretrain

    torch.manual_seed(0)
    sizes: dict = VIT if kind == "vit" else {"window_size": 4, "embed_dim": 16, "depths": (1, 2), "num_heads": (1, 2)}
    cfg = dataclasses.replace(pretrain.PRESETS["tiny"], backbone=kind, model_args=sizes | args)
    model = pretrain.model.create_tower(cfg).eval()
    _loud(model)
    contract.save_folder(Path(folder), contract.Tower(model))
    return Path(folder)


def dual_encoder(folder: Path | str) -> Path:
    """A folder of a random VisionTextDualEncoderModel (Swin and BERT) for 32 × 32 pictures."""
    torch.manual_seed(0)
    tokenizer = bert_tokenizer()
    vision = SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[1, 2], window_size=4)
    text = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
    )
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=16)
    model = VisionTextDualEncoderModel(config, vision_model=SwinModel(vision), text_model=BertModel(text))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return Path(folder)


def segmenter(folder: Path | str, kind: str = "swin", label_names=("background", "face", "plant"), own=None) -> Path:
    """A folder of a random segmenter for 32 × 32 pictures: "swin", "dpt", "unet" as training builds them, "segformer".

    Its classes are far apart, so that no two are equally probable. own: keys for preprocessor_config.json,
    but "segformer".
    """
    torch.manual_seed(0)
    names = list(label_names)
    if kind == "segformer":
        config = SegformerConfig(
            hidden_sizes=[8, 16, 16, 16],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 1, 2, 2],
            decoder_hidden_size=16,
            id2label=dict(enumerate(names)),
            label2id={name: k for k, name in enumerate(names)},
        )
        model = _decided(SegformerForSemanticSegmentation(config))
        model.save_pretrained(folder)
        SegformerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
        return Path(folder)
    from hub_models import segmentation as contract
    from training import segmentation

    sizes = {
        "swin": segmentation.PRESETS["tiny"].model_args,
        "dpt": {
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "backbone_out_indices": (0, 1, 2, 3),
            "neck_hidden_sizes": (8, 8, 16, 16),
            "channels": 16,
        },
        "unet": {"encoder_name": "tu-test_resnet", "decoder_channels": (32, 16, 16, 8, 8)},
    }
    cfg = dataclasses.replace(segmentation.PRESETS["tiny"], backbone=kind, model_args=sizes[kind])
    made = segmentation.model.create_model(cfg, names)
    _decided(made.model)
    parts = {"resolution_px": 32, "max_side_px": 64} | (own or {})
    made = contract.Segmenter(made.model, made.processor, names, name="tiny", own=parts)
    contract.save_folder(folder, made)
    return Path(folder)


@torch.no_grad()
def _decided(model: torch.nn.Module) -> torch.nn.Module:
    """The segmenter, its class layer scaled so that scores of noise have mean 0, deviation 3: fresh ones are alike."""
    from hub_models import segmentation as contract

    layer, noise = contract.class_layer(model.eval()), torch.randn(4, 3, 32, 32)
    for module in model.modules():  # activations fade on the way through fresh layers
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            torch.nn.init.kaiming_normal_(module.weight)
    scores = contract.full_logits(model, noise)  # (4, K, 32, 32)
    mean, scale = scores.mean((0, 2, 3)), 3 / scores.std((0, 2, 3))
    layer.weight.mul_(scale[:, None, None, None])
    layer.bias.copy_((layer.bias - mean) * scale)
    return model


def noise(*sizes: tuple[int, int]) -> list[Image.Image]:
    """Pictures of random pixels, of these heights and widths."""
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@torch.no_grad()
def detector(folder: Path | str, kind: str = "deimv2", label_names=("disc", "square", "bar")) -> Path:
    """A folder of a random detector of 32 × 32 pictures, whose scores are far apart.

    kind: "deimv2" on a Swin, "yolos"; or "maskformer" or "rcnn" on a Swin, which make masks.
    """
    torch.manual_seed(0)
    named = {"id2label": dict(enumerate(label_names)), "label2id": {name: k for k, name in enumerate(label_names)}}
    if kind == "yolos":
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = YolosForObjectDetection(
            YolosConfig(image_size=(32, 32), patch_size=8, num_detection_tokens=6, **sizes, **named)
        )
        heads, processor = (
            [model.class_labels_classifier.layers[-1]],
            YolosImageProcessor(size={"height": 32, "width": 32}),
        )
    elif kind == "maskformer":
        backbone = MaskFormerSwinConfig(image_size=32, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4,
                                        out_features=["stage1", "stage2"])  # fmt: skip
        decoder = DetrConfig(d_model=16, num_queries=6, decoder_layers=2, decoder_ffn_dim=16, dropout=0.0,
                             decoder_attention_heads=2, encoder_attention_heads=2)  # fmt: skip
        config = MaskFormerConfig(
            backbone_config=backbone, decoder_config=decoder, fpn_feature_size=32, mask_feature_size=16, **named
        )
        model = MaskFormerForInstanceSegmentation(config)
        torch.nn.init.normal_(model.model.transformer_module.queries_embedder.weight, std=2.0)
        heads = [model.class_predictor]
        processor = MaskFormerImageProcessor(size={"height": 32, "width": 32}, size_divisor=0)
    elif kind == "rcnn":
        from hub_models import rcnn

        backbone = SwinConfig(image_size=32, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4,
                              out_features=["stage1", "stage2"])  # fmt: skip
        model = rcnn.SwinMaskRCNN(
            rcnn.RcnnConfig(backbone, width=16, hidden=16, anchor_px=[[8, 12], [16, 24]], answers=6, **named)
        )
        heads = [model.rcnn.roi_heads.box_predictor.cls_score]
        processor = rcnn.RcnnImageProcessor(size={"height": 32, "width": 32})
    else:
        backbone = SwinConfig(image_size=32, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4,
                              out_features=["stage1", "stage2"])  # fmt: skip
        wide = dict.fromkeys(("encoder_hidden_dim", "encoder_ffn_dim", "d_model", "decoder_ffn_dim"), 16)
        heads_of = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
        config = Deimv2Config(
            backbone_config=backbone, encoder_in_channels=[16, 32], decoder_in_channels=[16, 16], feat_strides=[4, 8],
            num_feature_levels=2, encode_proj_layers=[1], num_queries=6, decoder_layers=2, num_denoising=0,
            depth_mult=0.34, hidden_expansion=0.5, freeze_backbone_batch_norms=False, **wide, **heads_of, **named,
        )  # fmt: skip
        model = Deimv2ForObjectDetection(config)
        heads, processor = [model.class_embed[0]], RTDetrImageProcessor(size={"height": 32, "width": 32})
    for head in heads:
        torch.nn.init.normal_(head.weight)
        torch.nn.init.zeros_(head.bias)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)


def captioner(folder: Path | str, kind: str = "swin-bert", max_length: int = 16) -> Path:
    """A folder of a random captioner for 32 × 32 pictures: "swin-bert" as ours, "vit-gpt2" or "blip" of somebody else.

    Its words are far apart, so that no two are equally probable.
    """
    torch.manual_seed(0)
    if kind == "blip":
        tokenizer = bert_tokenizer(max_length)
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
        text = {
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": max_length,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.sep_token_id,
            "sep_token_id": tokenizer.sep_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "projection_dim": 16,
        }
        vision = {
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "projection_dim": 16,
        }
        model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=16))
        _loud(model)
        model.save_pretrained(folder)
        BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
        return Path(folder)
    if kind == "vit-gpt2":
        tokenizer = gpt2_tokenizer(max_length)
        vision = ViTModel(
            ViTConfig(
                image_size=32,
                patch_size=8,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=2,
            )
        )
        decoder = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(tokenizer),
                n_embd=32,
                n_layer=2,
                n_head=2,
                n_positions=max_length,
                bos_token_id=tokenizer.eos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                is_decoder=True,
                add_cross_attention=True,
            )
        )
        model = VisionEncoderDecoderModel(encoder=vision, decoder=decoder)
        model.config.decoder_start_token_id = model.config.pad_token_id = model.config.eos_token_id = (
            tokenizer.eos_token_id
        )
        _loud(model)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
        return Path(folder)
    from hub_models import captioning as contract
    from hub_models import clip
    from training import captioning

    dual_encoder(Path(folder) / "clip")
    cfg = dataclasses.replace(
        captioning.PRESETS["tiny"], clip_name_or_path=str(Path(folder) / "clip"), resolution=32, max_length=max_length
    )
    made = captioning.model.create_captioner(cfg, clip.load(cfg.clip_name_or_path, device="cpu"))
    _loud(made.model)
    shutil.rmtree(Path(folder) / "clip")
    contract.save_folder(folder, made)
    return Path(folder)


def kept_judges(weights: Path, label_names=()) -> dict:
    """A random captioner as the judge in a folder of weights, and a classifier where names are given: what
    `training.judges.KEPT` says of what then lies there."""
    captioner(weights / "captioning" / "emoji")
    if label_names:
        classifier(weights / "classifier" / "swin", label_names)
    return {
        stem: (name, {path.name: (file_sha256(path),) for path in (weights / stem / name).iterdir()})
        for stem, name in (("captioning", "emoji"), ("classifier", "swin"))
    }


def gpt2_tokenizer(max_length: int = 16) -> GPT2Tokenizer:
    """A GPT2Tokenizer of single letters and a few words with the space before them."""
    letters = [chr(c) for c in range(ord("!"), ord("~") + 1)]
    merges, pieces = [], []
    for word in WORDS:
        parts = ["Ġ", *word]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            pieces.append(parts[0])
    vocab = {piece: n for n, piece in enumerate(dict.fromkeys([*letters, "Ġ", *pieces, "<|endoftext|>"]))}
    return GPT2Tokenizer(vocab=vocab, merges=list(dict.fromkeys(merges)), model_max_length=max_length)


@torch.no_grad()
def _loud(model: torch.nn.Module) -> None:
    """Weights that keep the deviation of what goes in, not fresh ones, so that pictures and words make a difference."""
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.weight.normal_()
        elif isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.weight.normal_(std=module.weight[0].numel() ** -0.5)
        elif type(module).__name__ == "Conv1D":  # GPT-2's linear layer, transposed
            module.weight.normal_(std=len(module.weight) ** -0.5)
        bias = getattr(module, "bias", None)
        if isinstance(bias, torch.nn.Parameter):
            bias.normal_(std=0.3)
    if tie := getattr(model, "tie_weights", None):
        tie()


def timm_backbone(folder: Path | str) -> Path:
    """A timm classifier in `folder` that saw pixels with another mean than most, with statistics not of a fresh one."""
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=3)
    model.pretrained_cfg = model.pretrained_cfg | {"mean": (0.5, 0.5, 0.4), "std": (0.5, 0.5, 0.6)}
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    names = {"num_classes": 3, "label_names": ["a", "b", "c"]}
    timm.models.save_for_hf(model, str(folder), model_config=names, safe_serialization=True)
    return Path(folder)


def photographs(root: Path | str) -> Path:
    """Twelve pictures to train on and four to validate with, of three captions each, two of the first, and a card."""
    root = Path(root)
    for split, count in (("train", 12), ("validation", 4)):
        folder = root / split
        folder.mkdir()
        rows = []
        for number in range(count):
            colour = ("red", "green", "blue")[number % 3]
            picture = Image.new("RGB", (72, 60), "white")
            ImageDraw.Draw(picture).ellipse((10 + number, 10, 50, 50), fill=colour)
            picture.save(folder / f"{number}.png")
            texts = [f"A {colour} disc number {number} on white.", f"One {colour} disc.", f"There is a {colour} disc."]
            rows.append({"file_name": f"{number}.png", "text": texts[: 3 if number else 2]})
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "README.md").write_text(
        "---\npretty_name: Discs\nlicense: other\nlicense_name: discs-only\nlicense_link: https://example.org/discs\n"
        'vitrail:\n  credits: ["Discs, somebody 2020"]\n  limits: ["For nobody."]\n  show_pictures: false\n---\n'
    )
    return root
