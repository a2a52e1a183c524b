"""The object of the contract: pictures drawn, completed and measured symbol by symbol. Letters: see the package."""

import copy
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from transformers import DynamicCache, GPT2LMHeadModel

from hub_models import drawing
from hub_models.pictures import WHITE, frame, from_uint8, to_uint8
from hub_models.tokens.pixelcnn import PixelCNN, Rows
from hub_models.tokens.symbols import Codes, Palette
from hub_models.ways import row_of


@dataclass(frozen=True)
class Draft:
    """What one step left behind: a symbol more of every picture."""

    index: int  # 0 … total - 1
    total: int
    symbols: torch.Tensor  # (B, N) int64: drawn up to the step's place, after it those of an empty picture


class Tokens:
    """A loaded model. Made by `load`, or from parts that are being trained."""

    def __init__(
        self,
        model: GPT2LMHeadModel | PixelCNN,
        alphabet: Palette | Codes,
        *,
        label_names: Sequence[str],
        guidance_scale: float = 1.0,
        ground: Sequence[int] = WHITE,
        name: str = "",
        weights_sha256: str = "",
    ):
        self.model, self.alphabet, self.label_names = model, alphabet, list(label_names)
        self.default_guidance, self.ground = guidance_scale, tuple(ground)
        self.name, self.weights_sha256 = name, weights_sha256

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def parameters(self) -> int:
        """Those of the VQ-VAE, where there is one, among them."""
        return sum(p.numel() for p in self.model.parameters()) + getattr(self.alphabet, "parameters", 0)

    @property
    def resolution_px(self) -> int:
        return self.alphabet.resolution_px

    @property
    def num_symbols(self) -> int:
        """N, of a picture."""
        return math.prod(self.alphabet.grid)

    @property
    def null_label(self) -> int:
        return len(self.label_names)

    def read(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """The symbols of pictures, (B, N) int64; each whole in a square of the ground colour."""
        pixels = np.stack([np.asarray(frame(p, self.resolution_px, self.ground)) for p in pictures])  # (B, R, R, 3)
        return self.alphabet.encode(from_uint8(pixels).to(self.device))

    def pictures(self, symbols: torch.Tensor) -> np.ndarray:
        """The pictures of symbols (B, N), such as a `Draft` has them: uint8 (B, R, R, 3)."""
        return to_uint8(self.alphabet.decode(symbols))

    def sample(
        self,
        labels: Sequence[int | str | None],
        seeds: Sequence[int],
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        guidance_scale: float | None = None,
    ) -> Generator[Draft]:
        """One `Draft` for every symbol, the last one's are the pictures; close it to stop at once.

        labels: one for each picture, its number or name; None or "any" leaves the class to the model.
        seeds: one for each picture, 0 … 2**63 - 1. A picture depends on its own seed and label alone, in a batch and
            by itself: symbols are drawn in float64 on the CPU, whatever the device.
        temperature: of the softmax, above 0. top_k: only the k most probable symbols are drawn, None for all.
        guidance_scale: 1 means none and costs half; None means the model's own. Of log-probabilities, as in
            `drawing.guide`.
        Raises ValueError, here and not at the first step, for anything out of these ranges.
        """
        if len(labels) != len(seeds) or not len(labels):
            raise ValueError(f"{len(labels)} labels for {len(seeds)} seeds: give one label and one seed a picture")
        return self._asked(labels, seeds, self._empty(), 0, temperature, top_k, guidance_scale)

    def complete(
        self,
        picture: Image.Image,
        labels: Sequence[int | str | None],
        seeds: Sequence[int],
        *,
        keep_rows: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        guidance_scale: float | None = None,
    ) -> Generator[Draft]:
        """As `sample`, but all begin with the first keep_rows rows of a picture's symbols, 0 … h - 1.

        Of codes these are decoded with what follows, so that pixels next to the seam may change a little.
        """
        if len(labels) != len(seeds) or not len(labels):
            raise ValueError(f"{len(labels)} labels for {len(seeds)} seeds: give one label and one seed a picture")
        height, width = self.alphabet.grid
        kept = width * drawing.check_whole("keep_rows", keep_rows, 0, height - 1)
        symbols = torch.cat([self.read([picture]).cpu()[:, :kept], self._empty()[:, kept:]], dim=1)
        return self._asked(labels, seeds, symbols, kept, temperature, top_k, guidance_scale)

    def _empty(self) -> torch.Tensor:
        return self.read([Image.new("RGB", (self.resolution_px, self.resolution_px), self.ground)]).cpu()  # (1, N)

    def _asked(self, labels, seeds, symbols, start, temperature, top_k, guidance_scale) -> Generator[Draft]:
        """The drafts from place `start` on. Raises ValueError."""
        rows = [row_of(label, self.label_names, self.null_label) for label in labels]
        scale = self.default_guidance if guidance_scale is None else guidance_scale
        if not drawing.is_number(scale):
            raise ValueError(f"guidance_scale {repr(scale)[:60]} is not a finite number")
        if not drawing.is_number(temperature) or temperature <= 0:
            raise ValueError(f"temperature {repr(temperature)[:60]} is not a number above 0")
        top_k = drawing.check_whole("top_k", self.alphabet.size if top_k is None else top_k, 1, self.alphabet.size)
        generators = drawing.generators_of([drawing.check_seed(seed) for seed in seeds])
        uniform = torch.stack([torch.rand(self.num_symbols, generator=g, dtype=torch.float64) for g in generators])
        symbols = symbols.repeat(len(rows), 1)
        return self._drafts(torch.tensor(rows), symbols, start, uniform, float(temperature), top_k, float(scale))

    @torch.no_grad()
    def _drafts(self, rows, symbols, start, uniform, temperature, top_k, scale) -> Generator[Draft]:
        """rows (B,), symbols (B, N), uniform (B, N): the row of each picture's label, its start, its draws."""
        size, guided = self.alphabet.size, scale != 1 and bool((rows != self.null_label).any())
        if guided:
            rows = torch.cat([torch.full_like(rows, self.null_label), rows])  # (2 B,)
        model = copy.deepcopy(self.model).to("cpu", torch.float64).eval()
        ask = Rows(model, rows) if isinstance(model, PixelCNN) else Cached(model, size + rows)
        for place in range(start, self.num_symbols):
            logits = ask(symbols.repeat(1 + guided, 1), place)[:, :size].log_softmax(-1)  # (B, K), guided (2 B, K)
            if guided:
                logits = drawing.guide(*logits.chunk(2), scale)
            symbols = symbols.clone()
            symbols[:, place] = next_symbols(logits, uniform[:, place], temperature, top_k)
            yield Draft(place - start, self.num_symbols - start, symbols)

    @torch.no_grad()
    def log_probs(self, pictures: Sequence[Image.Image], labels: Sequence[int | str | None]) -> torch.Tensor:
        """log p(symbol | those before it, label) of every symbol of pictures, in nats: (B, N) float64.

        Raises ValueError for labels that there are not.
        """
        rows = torch.tensor([row_of(label, self.label_names, self.null_label) for label in labels])
        symbols = self.read(pictures)  # (B, N)
        logits = logits_of(self.model, sequence(symbols, rows.to(symbols), self.alphabet.size), self.alphabet.size)
        return logits.double().log_softmax(-1).gather(-1, symbols[..., None])[..., 0].cpu()

    def log_likelihood(self, pictures: Sequence[Image.Image], labels: Sequence[int | str | None]) -> torch.Tensor:
        """log p(symbols | label) of each picture, in nats: (B,) float64, exact, by the chain rule.

        It is that of the symbols: of the picture in the colours of the palette, or of a VQ-VAE's codes. The latter is
        no bound on the likelihood of pixels, since the decoder has none, and says nothing of what the codes lose.
        """
        return self.log_probs(pictures, labels).sum(1)

    def bits_per_dimension(self, pictures: Sequence[Image.Image], labels: Sequence[int | str | None]) -> torch.Tensor:
        """-log2 p(symbols | label) / (3 R²), (B,): a dimension is a colour channel of a pixel, for codes as well.

        Even odds on all symbols are N log2 K / (3 R²): 2 for a palette of 64. See `log_likelihood` for what it is of.
        """
        return -self.log_likelihood(pictures, labels) / math.log(2) / (3 * self.resolution_px**2)

    def receipt(self, labels: Sequence, seeds: Sequence[int], *, temperature: float, top_k: int | None,
                guidance_scale: float, steps_done: int | None = None) -> dict:  # fmt: skip
        """Everything that draws these samples again, for JSON: see `drawing`. steps_done: the symbols drawn."""
        rows = [row_of(label, self.label_names, self.null_label) for label in labels]
        fields = {
            "model": self.name,
            "weights_sha256": self.weights_sha256,
            "labels": [[*self.label_names, "any"][row or 0] for row in rows],
            "seeds": [str(seed) for seed in seeds],
            "temperature": temperature,
            "top_k": top_k,
            "guidance_scale": guidance_scale,
            "size": [self.resolution_px, self.resolution_px],
        }
        return drawing.sealed(fields | ({} if steps_done is None else {"steps_done": steps_done}), self.device)


class Cached:
    """A GPT-2 that is asked place by place: keys and values of what it has read are kept."""

    def __init__(self, model: GPT2LMHeadModel, first: torch.Tensor):
        self.model, self.first, self.cache = model, first[:, None], DynamicCache(config=model.config)

    def __call__(self, symbols: torch.Tensor, place: int) -> torch.Tensor:
        """Logits (B, vocabulary) of a place, given the symbols (B, N) before it."""
        tokens = torch.cat([self.first, symbols[:, :place]], dim=1)[:, self.cache.get_seq_length() :]
        return self.model(input_ids=tokens, past_key_values=self.cache, use_cache=True).logits[:, -1]


def sequence(symbols: torch.Tensor, rows: torch.Tensor, size: int) -> torch.Tensor:
    """What a model reads to tell symbols (B, N) of labels (B,): (B, N), the label's token and all but the last."""
    return torch.cat([size + rows[:, None], symbols[:, :-1]], dim=1)


def logits_of(model: torch.nn.Module, tokens: torch.Tensor, size: int) -> torch.Tensor:
    """The logits (B, N, K) of the symbols alone that a model gives for a sequence (B, N), of labels' tokens none."""
    output = model(input_ids=tokens)
    return getattr(output, "logits", output)[..., :size].float()


def next_symbols(log_probs: torch.Tensor, uniform: torch.Tensor, temperature: float, top_k: int) -> torch.Tensor:
    """A symbol (B,) of each distribution (B, K), by the inverse of its cumulative at uniform (B,) in [0, 1)."""
    least = log_probs.topk(top_k, dim=-1).values[:, -1:]  # (B, 1)
    scaled = log_probs.masked_fill(log_probs < least, -math.inf) / temperature
    cumulative = scaled.softmax(-1).cumsum(-1)  # (B, K)
    return (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1)
