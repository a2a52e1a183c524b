"""The parts of a captioning model, whichever of the kinds it is, and what is done with its tokens and its attention.

Letters: see `hub_models.captioning`.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteriaList
from transformers.modeling_outputs import BaseModelOutput

from hub_models.store import CheckpointError

if TYPE_CHECKING:
    from hub_models.captioning.model import Captioner

MAX_SEQUENCES = 16  # captions of one picture, and beams
POINTED = 0.5  # a word points at the patches with so much of its largest attention …
MOST_POINTED = 0.25  # … but no more than this share of all
_SHOWING = threading.Lock()
_DRAWING = threading.Lock()  # transformers draws from the global generator


def decoder_of(model: Any) -> PreTrainedModel:
    """What says the words: a language model with cross-attention."""
    return model.text_decoder if model.config.model_type == "blip" else model.decoder


def encoder_of(model: Any) -> PreTrainedModel:
    """What sees the picture."""
    return model.vision_model if model.config.model_type == "blip" else model.encoder


def encode(model: PreTrainedModel, pixels: torch.Tensor) -> torch.Tensor:
    """Last hidden states of the encoder, (B, S, its width), of pictures (B, 3, R, R)."""
    return encoder_of(model)(pixel_values=pixels).last_hidden_state


def attended(model: PreTrainedModel, raw: torch.Tensor) -> torch.Tensor:
    """What the decoder attends to, (B, S, C): the encoder's states, through a linear layer where widths differ."""
    layer = getattr(model, "enc_to_dec_proj", None)
    return raw if layer is None else layer(raw)


def decode(model: PreTrainedModel, states: torch.Tensor, ids: torch.Tensor, **options):
    """The decoder's output for ids (B, L) that attend to states (B, S, C): .logits (B, L, V), and what is asked for."""
    return decoder_of(model)(input_ids=ids, encoder_hidden_states=states, **options)


def token_log_probs(served: "Captioner", states: torch.Tensor, rows: Sequence[list[int]]) -> list[list[float]]:
    """log p(token | picture, tokens before it) of each token of each row, the start left out; states (B, S, C)."""
    ids, real = padded([[served.start_id, *row] for row in rows], served.pad_id)
    ids = ids.to(states.device)
    logits = decode(served.model, states, ids[:, :-1], use_cache=False).logits.float()  # (B, L - 1, V)
    chosen = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0].cpu()  # (B, L - 1)
    return [chosen[n][real[n, 1:]].tolist() for n in range(len(rows))]


def padded(rows: Sequence[list[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lists of tokens as int64 (B, L), padded at the right, and bool (B, L): what is no padding."""
    ids = torch.full((len(rows), max(map(len, rows))), pad_id)
    real = torch.zeros(ids.shape, dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, : len(row)], real[number, : len(row)] = torch.tensor(row), True
    return ids, real


def special_tokens(model: PreTrainedModel, tokenizer) -> tuple[int, int, int]:
    """Ids of a caption's start, end and padding, by generation config, configs and tokenizer in this order."""
    if model.config.model_type == "blip":
        text = model.config.text_config
        return text.bos_token_id, text.sep_token_id, text.pad_token_id
    places = (model.generation_config, model.config, model.config.decoder, tokenizer)

    def first(*names: str) -> int | None:
        for place in places:
            for name in names:
                value = getattr(place, name, None)
                value = value[0] if isinstance(value, list) and value else value
                if isinstance(value, int):
                    return value
        return None

    start, end = first("decoder_start_token_id", "bos_token_id", "cls_token_id"), first("eos_token_id", "sep_token_id")
    if start is None or end is None:
        raise CheckpointError(
            f"{tokenizer.name_or_path}: neither configs nor tokenizer say how a caption starts and ends: set "
            "decoder_start_token_id and eos_token_id in generation_config.json"
        )
    pad = first("pad_token_id")
    return start, end, end if pad is None else pad


def grid_of(states: int) -> tuple[int, int] | None:
    """Rows and columns (h, w) of the square of patches among so many states, after a few class tokens, or None."""
    for extra in range(min(6, states)):
        side = math.isqrt(states - extra)
        if side * side == states - extra and (side > 1 or states == 1):
            return side, side
    return None


def never_stopping(on_step: Callable[[], None]) -> Callable:
    """A criterion of `generate` that calls on_step after each token and finds that no caption is done."""

    def criterion(ids: torch.Tensor, scores, **_) -> torch.Tensor:
        on_step()
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    return criterion


def relevance(cross_attentions: Sequence[torch.Tensor], score: torch.Tensor) -> torch.Tensor:
    """How much a score of one caption owes to each of the states attended to, (S,) ≥ 0, from the graph that made both.

    Attention times the gradient of the score by it, where that is positive, mean over layers and heads, sum over the
    positions of the caption (Chefer, Gur & Wolf 2021, eq. 5). Attention alone rests for a good part on patches that
    show nothing, whatever the word. cross_attentions: (1, heads, L, S) of each layer.
    """
    gradients = torch.autograd.grad(score, cross_attentions, retain_graph=True)
    shares = [
        (a.detach() * g).float().clamp(min=0)[0].mean(0) for a, g in zip(cross_attentions, gradients, strict=True)
    ]
    return torch.stack(shares).mean(0).sum(0)


def attention_of(cross_attentions: Sequence[torch.Tensor], place: slice) -> torch.Tensor:
    """The attention of positions of one caption to each of the states, (S,), mean over layers and heads."""
    return torch.stack([a.detach().float()[0, :, place].mean((0, 1)) for a in cross_attentions]).mean(0)


def pointed_at(attention: np.ndarray) -> np.ndarray:
    """The patches of a map (h, w) that a word points at, bool (h, w): at least one."""
    most = max(1, int(attention.size * MOST_POINTED))
    least = max(POINTED * attention.max(), np.sort(attention, axis=None)[-most])
    patches = attention >= least
    if patches.sum() > most:  # equal ones
        patches = np.zeros(attention.size, bool)
        patches[np.argsort(-attention, axis=None, kind="stable")[:most]] = True
    return patches.reshape(attention.shape)


def covered(seen: Image.Image, patches: np.ndarray) -> Image.Image:
    """A square picture whose `patches`, bool (h, w), have its mean colour."""
    pixels = np.array(seen)  # (R, R, 3)
    rows, columns = (np.arange(side) * count // side for side, count in zip(pixels.shape, patches.shape, strict=False))
    pixels[patches[rows][:, columns]] = np.rint(pixels.mean((0, 1))).astype(np.uint8)
    return Image.fromarray(pixels)


@contextlib.contextmanager
def drawing(seed: int | None, device: torch.device) -> Generator[None]:
    """For the time of the block, the global generators are those of the seed; None leaves them as they are."""
    if seed is None:
        yield
        return
    with _DRAWING, torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed % 2**63)
        yield


def cut(ids: torch.Tensor, begun: list[int], end_id: int) -> list[list[int]]:
    """Token lists after the start, cut behind their end."""
    rows = []
    for row in ids.tolist():
        ends = [place for place in range(len(begun), len(row)) if row[place] == end_id]
        rows.append(row[1 : ends[0] + 1 if ends else len(row)])
    return rows


def generated(
    served: "Captioner", raw: torch.Tensor, begun: list[int], settings: dict, on_step=None
) -> list[list[int]]:
    """Token lists after the start, cut behind their end: those of transformers' own `generate`."""
    config = GenerationConfig(**served.marks, **settings)
    ids = torch.tensor([begun] * len(raw), device=raw.device)
    watch = StoppingCriteriaList([never_stopping(on_step)] if on_step else [])
    stock: Any = served.model  # either class has `generate` of a mixin
    asked = {"generation_config": config, "stopping_criteria": watch}
    if served.kind == "blip":
        mask = torch.ones(raw.shape[:2], dtype=torch.long, device=raw.device)
        seen = {"encoder_hidden_states": raw, "encoder_attention_mask": mask}
        out = stock.text_decoder.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **seen, **asked)
    else:
        seen = BaseModelOutput(last_hidden_state=raw)
        out = stock.generate(encoder_outputs=seen, decoder_input_ids=ids, **asked)
    return cut(out, begun, served.end_id)


def words_of(served: "Captioner", tokens: Sequence[int]) -> list[tuple[str, slice]]:
    """The words that tokens make, each with its place among them; special tokens are none."""
    places: list[slice] = []
    special = set(served.tokenizer.all_special_ids)
    for at, piece in enumerate(served.tokenizer.convert_ids_to_tokens(list(tokens))):
        if tokens[at] in special:
            continue
        goes_on = piece.startswith("##") if served.wordpiece else not piece.startswith(("Ġ", "▁"))
        if goes_on and places and places[-1].stop == at:
            places[-1] = slice(places[-1].start, at + 1)
        else:
            places.append(slice(at, at + 1))
    return [(served.tokenizer.decode(list(tokens[place])).strip().removeprefix("##"), place) for place in places]


def check_options(beams, count, do_sample, top_p, temperature, new_tokens, length_penalty) -> None:
    whole = {"num_beams": beams, "num_return_sequences": count}
    for name, value in whole.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SEQUENCES:
            raise ValueError(f"{name} must be a whole number from 1 to {MAX_SEQUENCES}, got {value!r}")
    if new_tokens is not None and (isinstance(new_tokens, bool) or not isinstance(new_tokens, int) or new_tokens < 1):
        raise ValueError(f"max_new_tokens must be a whole number from 1, got {new_tokens!r}")
    ranges = {"top_p": (0.01, 1), "temperature": (0.05, 10), "length_penalty": (-5, 5)}
    for (name, (low, high)), value in zip(ranges.items(), (top_p, temperature, length_penalty), strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"{name} must be a number from {low} to {high}, got {value!r}")
    if do_sample and beams > 1:
        raise ValueError("captions are either drawn or searched for with beams: set num_beams=1, or do_sample=False")
    if not do_sample and count > beams:
        raise ValueError(
            f"num_return_sequences can be {beams} at most, with num_beams={beams}: raise that, or set do_sample"
        )


def show_attention(model: PreTrainedModel) -> None:
    """Have the decoder return its attention when asked: the fused kernels, its default, silently return none."""
    if model.config.model_type != "blip":
        decoder_of(model).set_attn_implementation("eager")


@contextlib.contextmanager
def attention_shown(model: PreTrainedModel) -> Generator[None]:
    """For the time of the block the decoder returns its attention when asked; then it is as fast again as it was."""
    decoder = decoder_of(model)
    with _SHOWING:
        before = decoder.config._attn_implementation
        show_attention(model)
        try:
            yield
        finally:
            if decoder.config._attn_implementation != before:
                decoder.set_attn_implementation(before)
