"""Folders of models over symbols: opened with every part checked, and written. Letters: see the package."""

import json
import math
from pathlib import Path

import torch
from diffusers import VQModel
from safetensors.torch import load_model
from transformers import GPT2LMHeadModel

from hub_models import building, pretrained, store
from hub_models.device import default_device
from hub_models.documents import read_object
from hub_models.drawing import is_number
from hub_models.pictures import is_ground
from hub_models.store import CheckpointError
from hub_models.tokens.model import Tokens
from hub_models.tokens.pixelcnn import PixelCNN
from hub_models.tokens.symbols import Codes, Palette

STEM = "tokens"
PREPROCESSOR = "preprocessor_config.json"


def load(name: str = "emoji-32", device: str | torch.device | None = None) -> Tokens:
    """The model of a bundled variant, a folder or a Hub repo ("org/repo[@revision]"), in fp32 and eval mode.

    Raises store.CheckpointError, which names the file at fault.
    """
    folder = store.resolve(STEM, name)
    with store.opening(folder):
        served = _open(folder, str(name))
    served.model.to(device or default_device())
    if isinstance(served.alphabet, Codes):
        served.alphabet.vq.to(served.device)
    return served


def load_codes(name: str, device: str | torch.device | None = None) -> Codes:
    """The VQ-VAE of a folder or Hub repo: its own, or that of a model with vq/ in it; see `load`."""
    folder = store.resolve(STEM, name)
    with store.opening(folder):
        part = folder / "vq" if (folder / "vq").is_dir() else folder
        codes = _open_codes(part, folder / PREPROCESSOR, str(name))
    codes.vq.to(device or default_device())
    return codes


def _open(folder: Path, name: str) -> Tokens:
    extra = read_object(folder / PREPROCESSOR)
    if problem := _wrong(extra):
        raise CheckpointError(f"{folder / PREPROCESSOR}: {problem}; correct it or export again")
    if "palette" in extra:
        alphabet: Palette | Codes = Palette(extra["palette"], extra["resolution_px"])
    else:
        alphabet = _open_codes(folder / "vq", folder / PREPROCESSOR, name)
    config = read_object(folder / "config.json")
    model = _open_gpt(folder) if "model_type" in config else _open_pixelcnn(folder, config)
    served = Tokens(
        model, alphabet, label_names=extra["label_names"], guidance_scale=extra["guidance_scale"],
        ground=extra["ground"], name=name, weights_sha256=store.weights_sha256(folder),
    )  # fmt: skip
    if problem := _mismatch(served):
        raise CheckpointError(f"{folder}/config.json: {problem}; export it again")
    return served


def _open_codes(folder: Path, preprocessor: Path, name: str) -> Codes:
    vq, config = pretrained.open_diffusers(folder, VQModel, "VQ-VAE"), read_object(folder / "config.json")
    if config.get("_class_name") != "VQModel" or (vq.config.in_channels, vq.config.out_channels) != (3, 3):
        raise CheckpointError(f"{folder}/config.json is of no VQModel with 3 channels in and out")
    if vq.config.lookup_from_codebook or vq.config.norm_type != "group":
        raise CheckpointError(f"{folder}/config.json: need norm_type group, and lookup_from_codebook false")
    codes = Codes(vq, read_object(preprocessor).get("resolution_px", 0), weights_sha256=store.weights_sha256(folder))
    if codes.resolution_px < codes.reduction or codes.resolution_px % codes.reduction:
        raise CheckpointError(f"{preprocessor}: resolution_px is no multiple of {codes.reduction}; correct it")
    codes.name = name
    return codes


def _open_gpt(folder: Path) -> GPT2LMHeadModel:
    config = pretrained.open_config(folder, "a GPT2LMHeadModel, such as training/tokens exports")
    if config.model_type != "gpt2":
        raise CheckpointError(f"{folder}/config.json is of a {config.model_type}: this needs a GPT2LMHeadModel")
    return pretrained.open_model(folder, GPT2LMHeadModel, config, "GPT-2").eval().requires_grad_(False)


def _open_pixelcnn(folder: Path, config: dict) -> PixelCNN:
    with building.as_large_as_its_weights(folder):
        with torch.device("meta"):
            PixelCNN(**config)
        model = PixelCNN(**config)
    load_model(model, folder / "model.safetensors")
    return model.eval().requires_grad_(False)


def save_folder(folder: Path, served: Tokens) -> None:
    """Write the folder that `load` reads. Raises ValueError where its parts disagree."""
    extra = {
        "label_names": served.label_names,
        "resolution_px": served.resolution_px,
        "guidance_scale": served.default_guidance,
        "ground": list(served.ground),
    }
    if isinstance(served.alphabet, Palette):
        extra["palette"] = served.alphabet.colours
    if problem := _wrong(extra) or _mismatch(served):
        raise ValueError(f"not saved: {problem}")
    served.model.save_pretrained(folder)
    if isinstance(served.alphabet, Codes):
        served.alphabet.vq.save_pretrained(Path(folder, "vq"), safe_serialization=True)
    Path(folder, PREPROCESSOR).write_text(json.dumps(extra) + "\n", encoding="utf-8")


def save_codes(folder: Path, codes: Codes) -> None:
    """Write a folder of the VQ-VAE alone, as `load_codes` reads it."""
    codes.vq.save_pretrained(folder, safe_serialization=True)
    Path(folder, PREPROCESSOR).write_text(json.dumps({"resolution_px": codes.resolution_px}) + "\n", encoding="utf-8")


def _wrong(extra: dict) -> str | None:
    """What is no such setting in preprocessor_config.json; None if nothing."""
    names, palette, side = extra.get("label_names"), extra.get("palette", [[0, 0, 0]]), extra.get("resolution_px")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return "label_names is not a list of text"
    if type(side) is not int or side < 1:
        return "resolution_px is no side in pixels"
    if not is_number(extra.get("guidance_scale")):
        return "guidance_scale is not a finite number"
    if not is_ground(extra.get("ground")) or not isinstance(palette, list) or not all(map(is_ground, palette)):
        return "ground, or a colour of the palette, is not three numbers from 0 to 255"
    return None if palette else "the palette has no colours"


def _mismatch(served: Tokens) -> str | None:
    """What keeps model, symbols and labels from drawing together; None if nothing."""
    wanted = served.alphabet.size + len(served.label_names) + 1
    if isinstance(model := served.model, PixelCNN):
        rows = model.num_symbols + model.num_labels + 1
        if (model.num_symbols, model.grid) != (served.alphabet.size, served.alphabet.grid):
            return f"{model.num_symbols} symbols in a grid of {model.grid}, but {served.alphabet.size} in pictures"
    else:
        rows = model.config.vocab_size
        if model.config.n_positions < math.prod(served.alphabet.grid):
            return f"n_positions {model.config.n_positions} is less than the symbols of a picture"
    return None if rows == wanted else f"{rows} tokens for {wanted} symbols and labels"
