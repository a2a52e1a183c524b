"""Pictures and texts in one space: a dual encoder of the CLIP kind.

A model folder is what stock transformers writes for a `VisionTextDualEncoderModel` (any vision and text tower) or a
`CLIPModel`, with its tokenizer and image processor; `AutoModel`, `AutoTokenizer` and `AutoImageProcessor` open it. Of
the own keys in preprocessor_config.json, both optional, framed = false says that a picture is squeezed into a square
instead of standing whole in a white one.

Letters: B pictures or texts, R pixels a side, L tokens of a text, D width of the common space, C of the text tower.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import CLIPModel, VisionTextDualEncoderModel

from hub_models import pretrained, store
from hub_models.device import default_device
from hub_models.documents import read_object
from hub_models.pictures import frame, on_ground
from hub_models.store import CheckpointError

DualEncoder = VisionTextDualEncoderModel | CLIPModel
MODELS = {"vision-text-dual-encoder": VisionTextDualEncoderModel, "clip": CLIPModel}
BATCH = 128  # pictures or texts that are embedded at once
MAX_RANKED = 1000  # texts that are ranked at once
PROCESSOR, RANK_TEMPERATURE = "preprocessor_config.json", "rank_temperature"  # a key of ours in that file, optional
FRAMED = "framed"  # another


class CLIP:
    """A loaded dual encoder. Made by `load`, or from parts that are being trained."""

    def __init__(
        self,
        model: DualEncoder,
        tokenizer,
        image_processor,
        *,
        name: str,
        weights_sha256: str,
        rank_temperature: float = 1.0,
        framed: bool = True,
    ):
        self.framed = framed  # whether a picture stands whole in a white square; else it is squeezed into one
        self.rank_temperature = rank_temperature  # what similarities are divided by before `rank` makes shares of them
        self.model, self.tokenizer, self.image_processor = model, tokenizer, image_processor
        self.name, self.weights_sha256 = name, weights_sha256
        size = getattr(model.config.vision_config, "image_size", 224)
        self.resolution_px: int = size if isinstance(size, int) else size[-1]
        positions = getattr(model.config.text_config, "max_position_embeddings", tokenizer.model_max_length)
        self.max_length: int = min(tokenizer.model_max_length, positions)
        self.parameters = sum(p.numel() for p in model.parameters())

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def logit_scale(self) -> float:
        """What cosine similarities are multiplied by before a softmax: the inverse of the temperature."""
        return float(self.model.logit_scale.detach().exp())

    def preprocess(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """The pictures as the model wants them, (B, 3, R, R): framed (`frame`), or as the processor squeezes them."""
        seen = [frame(image, self.resolution_px) if self.framed else on_ground(image) for image in images]
        return self.image_processor(images=seen, return_tensors="pt")["pixel_values"].to(self.device)

    @torch.no_grad()
    def embed_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """One row of norm 1 for each picture, (B, D), on the CPU."""
        parts = [images[at : at + BATCH] for at in range(0, len(images), BATCH)]
        return torch.cat([unit_image_rows(self.model, self.preprocess(part)).cpu() for part in parts])

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """One row of norm 1 for each text, (B, D), on the CPU. Padding is masked, so a text's row is its own."""
        rows = []
        for at in range(0, len(texts), BATCH):
            options = {"truncation": True, "max_length": self.max_length, "return_tensors": "pt"}
            tokens = self.tokenizer(list(texts[at : at + BATCH]), padding=True, **options).to(self.device)
            rows.append(unit_text_rows(self.model, tokens["input_ids"], tokens["attention_mask"]).cpu())
        return torch.cat(rows)

    def rank(self, image: Image.Image, texts: Sequence[str]) -> list[tuple[str, float]]:
        """The texts, each with the probability that of all of them it is the picture's, most probable first.

        softmax(logit_scale · cosine / rank_temperature): probabilities of the stock model where the temperature is 1,
        and calibrated ones where it was fitted (Guo et al. 2017, §4.2). They add up to 1, also when none of the texts
        fits. Raises ValueError for no texts, and for more than MAX_RANKED.
        """
        if not texts:
            raise ValueError("there is nothing to rank: give at least one line of text")
        if len(texts) > MAX_RANKED:
            raise ValueError(f"{len(texts):,} lines to rank, at most {MAX_RANKED:,} are: leave some out")
        similarity = (self.embed_images([image]) @ self.embed_texts(texts).T)[0]  # (M,)
        shares = (self.logit_scale * similarity.double() / self.rank_temperature).softmax(0)
        return [(texts[i], float(shares[i])) for i in shares.argsort(descending=True, stable=True).tolist()]

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """Token ids int64 (B, L), L = max_length: longer texts cut, shorter ones padded, as diffusion pipelines do."""
        return self.tokenizer(
            list(texts), padding="max_length", max_length=self.max_length, truncation=True, return_tensors="pt"
        )["input_ids"]

    @torch.no_grad()
    def text_states(self, texts: Sequence[str]) -> torch.Tensor:
        """Last hidden states of the text tower, (B, L, C), on the model's device.

        Without an attention mask: what `StableDiffusionPipeline.encode_prompt` computes with this tower and tokenizer.
        """
        return self.model.text_model(self.tokenize(texts).to(self.device))[0]

    def was_cut(self, text: str) -> bool:
        """Whether the text has more tokens than the tower reads, so that its end is lost."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return len(self.tokenizer(text, truncation=False, verbose=False)["input_ids"]) > self.max_length


def unit_image_rows(model: DualEncoder, pixels: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, R, R) in the common space, rows of norm 1: (B, D)."""
    row = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    return torch.nn.functional.normalize(row.float(), dim=-1)


def unit_text_rows(model: DualEncoder, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Texts (B, L) in the common space, rows of norm 1: (B, D)."""
    row = model.text_projection(model.text_model(input_ids=ids, attention_mask=mask).pooler_output)
    return torch.nn.functional.normalize(row.float(), dim=-1)


def load(name: str = "emoji", device: str | torch.device | None = None) -> CLIP:
    """The dual encoder of a bundled variant, a folder or a Hub repo ("org/repo[@revision]"); fp32, eval.

    Raises store.CheckpointError, which names the file at fault.
    """
    folder = store.resolve("clip", name)
    with store.opening(folder):
        served = _open(folder, str(name))
    served.model.to(device or default_device())
    return served


def _open(folder: Path, name: str) -> CLIP:
    config = pretrained.open_config(folder, "a VisionTextDualEncoderModel or a CLIPModel")
    if config.model_type not in MODELS:
        raise CheckpointError(
            f"{folder}/config.json says model_type {config.model_type!r}: this needs a VisionTextDualEncoderModel or a "
            "CLIPModel"
        )
    model = pretrained.open_model(folder, MODELS[config.model_type], config, "dual encoder")
    tokenizer, image_processor = pretrained.open_processors(folder, config)
    model = model.eval().requires_grad_(False)
    own = {"rank_temperature": _rank_temperature(folder), "framed": pretrained.is_framed(folder, True)}
    sha256 = store.weights_sha256(folder)
    return CLIP(model, tokenizer, image_processor, name=name, weights_sha256=sha256, **own)


def _rank_temperature(folder: Path) -> float:
    path = folder / PROCESSOR
    value = read_object(path).get(RANK_TEMPERATURE, 1.0) if path.is_file() else 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e5:
        raise CheckpointError(f"{path}: {RANK_TEMPERATURE} must be a positive number, it is {str(value)[:40]}")
    return float(value)


def save_folder(
    folder, model: DualEncoder, tokenizer, image_processor, rank_temperature: float = 1.0, framed: bool = True
) -> None:
    """Write what `load` reads: stock config, weights, tokenizer and image processor; our keys among the latter's."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    path = Path(folder) / PROCESSOR
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    own: dict[str, bool | float] = {} if framed and FRAMED not in kept else {FRAMED: framed}
    if rank_temperature != 1 or RANK_TEMPERATURE in kept:
        own[RANK_TEMPERATURE] = rank_temperature
    if own:
        kept |= own
        path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
