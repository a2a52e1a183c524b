"""Opens and writes the folders of captioning models."""

import json
from pathlib import Path

import torch
from transformers import BlipForConditionalGeneration, GenerationConfig, VisionEncoderDecoderModel

from hub_models import pretrained, store
from hub_models.captioning.model import NEW_TOKENS, Captioner
from hub_models.captioning.parts import decoder_of
from hub_models.device import default_device
from hub_models.store import CheckpointError

MODELS = {"vision-encoder-decoder": VisionEncoderDecoderModel, "blip": BlipForConditionalGeneration}
PROCESSOR = "preprocessor_config.json"


def load(name: str = "emoji", device: str | torch.device | None = None) -> Captioner:
    """The captioner of a bundled variant, a folder or a Hub repo ("org/repo[@revision]"); fp32, eval.

    Raises store.CheckpointError, which names the file at fault.
    """
    folder = store.resolve("captioning", name)
    with store.opening(folder):
        served = _open(folder, str(name))
    served.model.to(device or default_device())
    return served


def _open(folder: Path, name: str) -> Captioner:
    config = pretrained.open_config(folder, "a VisionEncoderDecoderModel or a BlipForConditionalGeneration")
    if config.model_type not in MODELS:
        raise CheckpointError(
            f"{folder}/config.json says model_type {config.model_type!r}: this needs a VisionEncoderDecoderModel or a "
            "BlipForConditionalGeneration"
        )
    model = pretrained.open_model(folder, MODELS[config.model_type], config, "captioner")
    tokenizer, image_processor = pretrained.open_processors(folder, config)
    pieces = decoder_of(model).config.vocab_size
    if len(tokenizer) > pieces:
        have = f"its tokenizer has {len(tokenizer)} pieces and its decoder {pieces}"
        raise CheckpointError(f"{folder}: {have}: they belong to different models")
    model = model.eval().requires_grad_(False)
    about = {
        "name": name,
        "weights_sha256": store.weights_sha256(folder),
        "framed": pretrained.is_framed(folder, False),
    }
    served = Captioner(model, tokenizer, image_processor, **about)
    special = {"start": served.start_id, "end": served.end_id, "padding": served.pad_id}
    for meaning, token in special.items():
        if type(token) is not int or not 0 <= token < pieces:
            raise CheckpointError(
                f"{folder}: its {meaning} is token {str(token)[:40]}, of {pieces}: correct the configs"
            )
    return served


def save_folder(folder: str | Path, captioner: Captioner) -> None:
    """Write what `load` reads: the stock files of model, tokenizer and image processor, our key among the latter's.

    `generate` of the stock class, without arguments, then says what `caption` says.
    """
    folder, model = Path(folder), captioner.model
    if captioner.kind != "blip":
        most = min(NEW_TOKENS, captioner.max_length - 1)
        model.generation_config = GenerationConfig(**captioner.marks, max_new_tokens=most)
        model.config.decoder_start_token_id, model.config.pad_token_id = captioner.start_id, captioner.pad_id
    model.save_pretrained(folder)
    captioner.tokenizer.save_pretrained(folder)
    captioner.image_processor.save_pretrained(folder)
    path = folder / PROCESSOR
    kept = json.loads(path.read_text(encoding="utf-8")) | {"framed": captioner.framed}
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
