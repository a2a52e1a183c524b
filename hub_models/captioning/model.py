"""Captions with their probabilities, and for each word where the model looked.

Letters: see `hub_models.captioning`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedModel

from hub_models.captioning.evidence import evidence_of
from hub_models.captioning.parts import (
    attended,
    check_options,
    cut,
    decode,
    decoder_of,
    drawing,
    encode,
    generated,
    padded,
    special_tokens,
    token_log_probs,
    words_of,
)
from hub_models.pictures import frame, on_ground

BATCH = 32  # pictures that are seen at once
NEW_TOKENS = 64  # of a caption, where nobody says and the decoder has room for more
MAX_TEXT = 2000  # characters of a prefix, before it is cut into tokens


@dataclass(frozen=True)
class Caption:
    """A caption and how probable the model finds it."""

    text: str
    log_prob: float  # natural logarithm of its probability: the sum of token_log_probs
    tokens: list[int]  # after the start: the prefix, what the model said, and its end if it came to one
    token_log_probs: list[float]  # of each token given those before it, whatever the temperature
    words: list[tuple[str, slice]]  # each word and its place in tokens

    @property
    def probability(self) -> float:
        return math.exp(self.log_prob)


class Captioner:
    """A captioner with its words and its pre-processing. Made by `load`, or from parts that are being trained."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer,
        image_processor,
        *,
        name: str,
        weights_sha256: str = "",
        framed: bool = False,
    ):
        self.model, self.tokenizer, self.image_processor = model, tokenizer, image_processor
        self.name, self.weights_sha256, self.framed = name, weights_sha256, framed
        decoder = decoder_of(model).config
        if model.config.model_type == "blip":
            self.kind, vision = "blip", model.config.vision_config
        else:
            self.kind, vision = f"{model.config.encoder.model_type}-{decoder.model_type}", model.config.encoder
        size = getattr(vision, "image_size", 224)
        self.resolution_px: int = size if isinstance(size, int) else size[-1]
        self.start_id, self.end_id, self.pad_id = special_tokens(model, tokenizer)
        self.marks = {
            "bos_token_id": self.start_id,
            "decoder_start_token_id": self.start_id,
            "eos_token_id": self.end_id,
            "pad_token_id": self.pad_id,
        }
        self.max_length: int = min(int(decoder.max_position_embeddings), int(tokenizer.model_max_length))
        self.max_prefix_tokens: int = self.max_length - 2  # beside the start, and one token that the model says
        self.parameters = sum(p.numel() for p in model.parameters())
        pieces = tokenizer.get_vocab()
        self.wordpiece = sum(p.startswith("##") for p in pieces) > sum(p.startswith(("Ġ", "▁")) for p in pieces)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    # --- Pictures and texts as the model takes them -----------------------------------------------------------------

    def seen(self, image: Image.Image) -> Image.Image:
        """The square of R × R pixels, RGB, that the model sees of a picture."""
        if self.framed:
            return frame(image, self.resolution_px)
        return on_ground(image).resize((self.resolution_px, self.resolution_px), Image.Resampling.BICUBIC)

    def pixel_values(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """The pictures as the model wants them, (B, 3, R, R), on the CPU."""
        images = [frame(image, self.resolution_px) if self.framed else on_ground(image) for image in images]
        return self.image_processor(images=images, return_tensors="pt")["pixel_values"]

    def encode(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Last hidden states of the encoder, (B, S, its width), on the model's device."""
        return encode(self.model, self.pixel_values(images).to(self.device))

    def prefix_tokens(self, text: str) -> list[int]:
        """The tokens of a caption's beginning. Raises ValueError, which names the limit, for one that is too long."""
        if len(text) > MAX_TEXT:
            raise ValueError(f"the beginning has {len(text):,} characters, at most {MAX_TEXT:,} are read: shorten it")
        tokens = self._tokens(text)
        if len(tokens) > self.max_prefix_tokens:
            raise ValueError(
                f"the beginning has {len(tokens)} tokens, this model reads at most {self.max_prefix_tokens}: shorten it"
            )
        return tokens

    def sequences(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Start, tokens and end of texts, int64 (B, L), padded at the right, and what is no padding, bool (B, L).

        Longer texts are cut to `max_length`, their end too.
        """
        rows = [[self.start_id, *self._tokens(text), self.end_id][: self.max_length] for text in texts]
        return padded(rows, self.pad_id)

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]

    # --- Captions ---------------------------------------------------------------------------------------------------

    def caption(self, image: Image.Image, **options) -> list[Caption]:
        """Captions of a picture, best first; the options are those of `caption_all`."""
        return self.caption_all([image], **options)[0]

    @torch.no_grad()
    def caption_all(
        self,
        images: Sequence[Image.Image],
        *,
        num_beams: int = 1,
        num_return_sequences: int = 1,
        do_sample: bool = False,
        top_p: float = 0.9,
        temperature: float = 1.0,
        max_new_tokens: int | None = None,
        length_penalty: float = 1.0,
        prefix: str = "",
        seed: int | None = None,
        use_cache: bool = True,
        on_step: Callable[[], None] | None = None,
    ) -> list[list[Caption]]:
        """Captions of each picture, best first; they do not depend on the pictures beside it, unless they are drawn.

        Greedy; with num_beams > 1 by beam search, and best is the log-probability over length ** length_penalty, as
        transformers has it; with do_sample drawn from the fewest tokens that hold top_p of the probability (Holtzman et
        al. 2020, §3.1) at this temperature, a function of the seed.
        prefix: what a caption begins with. max_new_tokens: at most so many more, and what the decoder has room for.
        on_step: called after each token; what it raises ends the work.
        Raises ValueError that names the range of a value that is out of it.
        """
        check_options(num_beams, num_return_sequences, do_sample, top_p, temperature, max_new_tokens, length_penalty)
        begun = [self.start_id, *self.prefix_tokens(prefix)]
        settings: dict[str, Any] = {
            "num_beams": num_beams,
            "num_return_sequences": num_return_sequences,
            "do_sample": do_sample,
            "max_new_tokens": min(max_new_tokens or NEW_TOKENS, self.max_length - len(begun)),
            "use_cache": use_cache,
        }
        if do_sample:
            settings |= {"top_p": top_p, "top_k": 0, "temperature": temperature}
        if num_beams > 1:
            settings |= {"length_penalty": length_penalty, "early_stopping": False}
        found: list[list[Caption]] = []
        with drawing(seed if do_sample else None, self.device):
            for at in range(0, len(images), BATCH):
                raw = self.encode(images[at : at + BATCH])
                if num_beams == 1 and not do_sample:
                    greedy = self.greedy(
                        raw, begun, max_new_tokens=settings["max_new_tokens"], use_cache=use_cache, on_step=on_step
                    )
                    found += [[caption] for caption in greedy]
                    continue
                rows = generated(self, raw, begun, settings, on_step)
                states = attended(self.model, raw).repeat_interleave(num_return_sequences, 0)
                said = self._scored(states, rows)
                found += [said[n : n + num_return_sequences] for n in range(0, len(said), num_return_sequences)]
        if do_sample:
            found = [sorted(captions, key=lambda caption: -caption.log_prob) for captions in found]
        return found

    def score(self, image: Image.Image, text: str) -> Caption:
        """A text as a caption of the picture, with its probability. Raises ValueError for one that is too long."""
        with torch.no_grad():
            states = attended(self.model, self.encode([image]))
            return self._scored(states, [[*self.prefix_tokens(text), self.end_id]])[0]

    def greedy(
        self, raw: torch.Tensor, begun: list[int], *, max_new_tokens: int, use_cache: bool = True, on_step=None
    ) -> list[Caption]:
        """A caption for each row of the encoder's states (B, S, its width), the most probable token at every step.

        begun: the start, and the prefix. It is what transformers' `generate` says, without its own work, which at every
        step is a fifth of a small decoder's, and the same passes give the log-probabilities.
        """
        states, past = attended(self.model, raw), None
        ids = torch.tensor([begun] * len(raw), device=raw.device)  # (B, L)
        going = torch.ones(len(raw), dtype=torch.bool, device=raw.device)
        log_probs: list[torch.Tensor] = []
        for _ in range(max_new_tokens):
            fresh = ids[:, -1:] if past is not None else ids
            out = decode(self.model, states, fresh, past_key_values=past, use_cache=use_cache)
            past, logits = (out.past_key_values if use_cache else None), out.logits.float()  # (B, L, V)
            if not log_probs:
                log_probs = [logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]]  # of the prefix
            best, chosen = logits[:, -1].log_softmax(-1).max(-1)
            ids, going = torch.cat([ids, chosen[:, None]], 1), going & (chosen != self.end_id)
            log_probs.append(best[:, None])
            if on_step:
                on_step()
            if not going.any():
                break
        rows, values = cut(ids, begun, self.end_id), torch.cat(log_probs, 1).tolist()
        return self._captions(rows, [of_row[: len(row)] for of_row, row in zip(values, rows, strict=True)])

    def _scored(self, states: torch.Tensor, rows: Sequence[list[int]]) -> list[Caption]:
        """The captions of token lists, each with the probability that the states (B, S, C) give it."""
        return self._captions(rows, token_log_probs(self, states, rows))

    def _captions(self, rows: Sequence[list[int]], log_probs_of: Sequence[list[float]]) -> list[Caption]:
        captions = []
        for tokens, log_probs in zip(rows, log_probs_of, strict=True):
            text = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
            captions.append(Caption(text, sum(log_probs), list(tokens), log_probs, self.words(tokens)))
        return captions

    words, evidence = words_of, evidence_of
