"""What is measured of models over symbols, and of the VQ-VAE alone. Letters: see the package."""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from hub_models import store
from hub_models import tokens as contract
from hub_models.documents import read_object
from hub_models.pictures import to_uint8
from training import figures, metrics
from training.data.facts import facts_of
from training.data.sources import Source, open_source
from training.drawn import exam_of, measure, picture_tensor
from training.order import draw_seed
from training.task import Results
from training.tokens import vq


def draw(model: contract.Tokens, labels: Sequence[int | None], seed: int, *, batch_size: int = 64) -> np.ndarray:
    """One picture per label, uint8 (N, R, R, 3), at default guidance; picture i has seed f(seed, i)."""
    made = []
    for at in range(0, len(labels), batch_size):
        part = labels[at : at + batch_size]
        for last in model.sample(part, [draw_seed("draw", seed, at + i) for i in range(len(part))]):  # noqa: B007
            pass
        made.append(model.pictures(last.symbols))
    return np.concatenate(made)


def mean_bits(model: contract.Tokens, source: Source, limit: int | None = None, batch_size: int = 64) -> float:
    """The mean of `Tokens.bits_per_dimension` over the first `limit` pictures of a source, given their labels."""
    pictures = to_uint8(picture_tensor(source, model.resolution_px, limit))
    labels = [int(label) for label in source.labels[: len(pictures)]]
    starts = range(0, len(pictures), batch_size)
    parts = [slice(at, at + batch_size) for at in starts]
    bits = [model.bits_per_dimension([Image.fromarray(p) for p in pictures[s]], labels[s]) for s in parts]
    return float(torch.cat(bits).mean())


def bits_by_place(model: contract.Tokens, train: Source, source: Source) -> float:
    """As `mean_bits`, of what needs no learning: how often a symbol stands at a place of training pictures."""
    pictures = (picture_tensor(one, model.resolution_px).to(model.device) for one in (train, source))
    seen, new = (torch.cat([model.alphabet.encode(part).cpu() for part in one.split(64)]) for one in pictures)  # (·, N)
    counts = torch.ones(seen.shape[1], model.alphabet.size, dtype=torch.float64)  # (N, K)
    counts.scatter_add_(1, seen.T, torch.ones_like(seen.T, dtype=torch.float64))
    log_share = (counts / counts.sum(1, keepdim=True)).log2()  # (N, K)
    bits = -log_share.gather(1, new.T).sum(0)  # (M,)
    return float(bits.mean()) / (3 * model.resolution_px**2)


def evaluate_checkpoint(
    name: str, dataset_name: str, *, columns: dict | None = None, judge: str | None = None, batch_size: int = 64
) -> Results:
    """What `drawn.measure` says of a saved model, and its bits per dimension per set.

    bits_per_dimension: see `Tokens.bits_per_dimension`; bits_per_dimension_by_place: see `bits_by_place`.
    completed: real pictures, and what becomes of their upper halves. Of a VQ-VAE alone: see `vq.measured`; the baseline
    is the mean colour of each patch.
    """
    folder = store.resolve("tokens", name)
    if read_object(folder / "config.json").get("_class_name") == "VQModel":
        return evaluate_codes(name, dataset_name, columns or {})
    model = contract.load(name)
    exam = exam_of(name, dataset_name, model.label_names, model.resolution_px, columns, judge)
    results, drawn = exam.results(), functools.partial(draw, model, batch_size=batch_size)
    shown = measure(results, exam, drawn(exam.asked, 1), drawn)
    for split, part in zip(sets_of(dataset_name), exam.held_out, strict=True):
        results.metrics[f"{split}/bits_per_dimension"] = mean_bits(model, part)
        results.metrics[f"{split}/bits_per_dimension_by_place"] = bits_by_place(model, exam.train, part)
    results.figures["samples"] = figures.sheet(shown[: 12 * max(8, len(model.label_names))], 12, zoom=2)
    results.figures["completed"] = completed(model, exam.held_out[0])
    return results


def evaluate_codes(name: str, dataset_name: str, columns: dict) -> Results:
    """`vq.measured` of a saved VQ-VAE, per evaluation set."""
    codes, results = contract.load_codes(name), Results("mean colours")
    for split in sets_of(dataset_name):
        source = open_source(dataset_name, split=split, **columns)
        pictures = picture_tensor(source, codes.resolution_px)
        small = torch.nn.functional.avg_pool2d(pictures, codes.reduction)
        flat, real = to_uint8(torch.nn.functional.interpolate(small, scale_factor=codes.reduction)), to_uint8(pictures)
        results.note(split, vq.measured(codes, real), {"psnr": float(metrics.psnr(flat, real).mean())})
        results.hashes.append(source.data_hash)
    return results


def sets_of(dataset_name: str) -> list[str]:
    return [split for split in facts_of(dataset_name).evaluation_sets if split != "unseen_style"]


def completed(model: contract.Tokens, source: Source, count: int = 12) -> Image.Image:
    """A row of held-out pictures over three rows of what the model makes of their upper halves."""
    real = to_uint8(picture_tensor(source, model.resolution_px, count))
    made = []
    for picture, label in zip(real, source.labels[: len(real)], strict=True):
        *_, last = model.complete(Image.fromarray(picture), [int(label)] * 3, [0, 1, 2],
                                  keep_rows=model.alphabet.grid[0] // 2)  # fmt: skip
        made.append(model.pictures(last.symbols))  # (3, R, R, 3)
    rows = [real, *np.stack(made, 1)]
    return figures.sheet(np.concatenate(rows), columns=len(real), zoom=2)
