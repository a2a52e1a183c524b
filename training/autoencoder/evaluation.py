"""What is measured of an autoencoder, and what its card says."""

import functools
from collections.abc import Sequence

import numpy as np
import torch

from hub_models import autoencoder as contract
from training import figures, metrics
from training.autoencoder import codes
from training.autoencoder.config import AutoencoderConfig
from training.autoencoder.model import batches, reconstruct, white_pictures
from training.data.facts import facts_of
from training.data.sources import Source, open_source
from training.drawn import AS_LEARNED, exam_of, measure
from training.likelihood import bits_of_pixels_apart, bits_per_dim
from training.order import draw_seed
from training.task import Card, Results

STEM = "autoencoder"


def card_of(model: contract.Autoencoder, cfg: AutoencoderConfig, train: Source) -> Card:
    """What the card says of a model of this config."""
    side, (channels, height, width), facts = cfg.resolution, model.latent_shape, train.facts
    shift, scaling = contract.scale_of(model.vae)
    if model.space:
        return card_of_vectors(model, cfg, train)
    return Card(
        name=facts.ours or STEM,
        title=f"Autoencoder, {side} px to {height} × {width} latents of {channels} channels",
        summary=f"An AutoencoderKL that makes {height} × {width} × {channels} numbers of a picture of {side} × {side} "
        "pixels, and the picture of them again: the space in which latent diffusion works. Latents are "
        f"(z - {shift:.4g}) · {scaling:.4g}. Training data: {facts.title}.",
        library_name="diffusers",
        pipeline_tag=None,
        tags=["autoencoder", "diffusers", "pytorch"],
        parameters=model.parameters,
        usage='from diffusers import AutoencoderKL\n\nvae = AutoencoderKL.from_pretrained("org/name")\n'
        "latents = vae.encode(pictures).latent_dist.mean * vae.config.scaling_factor  # pictures (B, 3, H, W) "
        "in [-1, 1]\npictures = vae.decode(latents / vae.config.scaling_factor).sample",
        limits=[
            f"Fine lines and small text are lost: a picture has {channels * height * width:,} numbers left of "
            f"{3 * side * side:,}."
        ],
    )


def card_of_vectors(model: contract.Autoencoder, cfg: AutoencoderConfig, train: Source) -> Card:
    """What the card says of a model with one vector a picture."""
    side, size, facts = cfg.resolution, model.latent_shape[0], train.facts
    kind = "Autoencoder" if cfg.deterministic else "Variational autoencoder"
    return Card(
        name=f"{'plain' if cfg.deterministic else 'vae'}-{side}" if facts.ours else STEM,
        title=f"{kind}, {side} px to one vector of {size} numbers",
        summary=f"An AutoencoderKL that makes {size} numbers of a picture of {side} × {side} pixels, and the picture "
        "of them again. preprocessor_config.json has a Gaussian of these for each of "
        f"{len(train.label_names)} classes, from which pictures of a class are drawn. Training data: {facts.title}.",
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation",
        tags=["autoencoder", "variational-autoencoder", "diffusers", "pytorch"],
        parameters=model.parameters,
        usage="import torch\nfrom diffusers import AutoencoderKL\n\n"
        'vae = AutoencoderKL.from_pretrained("org/name")\n'
        f"pictures = vae.decode(torch.randn(4, {size}, 1, 1)).sample  # (4, 3, {side}, {side}) in [-1, 1]\n"
        "latents = vae.encode(pictures).latent_dist.mean",
        limits=[f"Pictures come back and are drawn blurred: {size} numbers are left of {3 * side * side:,}."],
    )


def evaluate_checkpoint(name: str, dataset_name: str, *, columns: dict | None = None, batch_size: int = 8) -> Results:
    """Mean per-picture PSNR (dB) and SSIM of a saved autoencoder per evaluation set, of whole pictures on white.

    name: bundled variant, folder or Hub id. The baseline is linear: a principal component analysis of the patches under
    each latent cell, fitted on the training pictures, with as many components as the latents have channels. Of a model
    that draws also what `note_bound` and `note_drawn` say.
    """
    model, facts, columns = contract.load(name), facts_of(dataset_name), columns or {}
    side, patch_px = model.resolution_px, model.reduction
    known = white_pictures(open_source(dataset_name, split="train", **columns), side)
    mean, basis = metrics.fit_patch_pca(known, patch_px, model.latent_shape[0])
    results = Results("linear PCA, same latent shape")
    for split in facts.evaluation_sets:
        source = open_source(dataset_name, split=split, **columns)
        pictures = white_pictures(source, side)
        ours = reconstruct(model, pictures, batch_size)
        linear = metrics.patch_pca_reconstruction(pictures, patch_px, mean, basis)
        (scores, decibels), (guessed, _) = scores_of(ours, pictures), scores_of(linear, pictures)
        results.note(split, scores | {"pictures": len(pictures)}, guessed)
        results.hashes.append(source.data_hash)
        if split == "validation" and source.label_names:
            results.per_class["PSNR (dB)"] = {
                label: float(decibels[source.labels == row].mean())
                for row, label in enumerate(source.label_names)
                if (source.labels == row).any()
            }
        if facts.show_pictures and not results.figures:
            some = np.linspace(0, len(pictures) - 1, min(10, len(pictures))).astype(int)
            rows = np.concatenate([pictures[some], ours[some], linear[some]])
            results.figures["reconstructions"] = figures.sheet(rows, columns=len(some))
    if model.observation_std:
        note_bound(results, model, open_source(dataset_name, split="validation", **columns))
    if model.space:
        note_drawn(results, model, dataset_name, columns)
    return results


@torch.no_grad()
def note_bound(results: Results, model: contract.Autoencoder, source: Source) -> None:
    """Note the evidence lower bound of a split's pictures as bits per dimension, an upper bound on their cost.

    The baseline is the cost of a Gaussian for each pixel and channel apart, fitted on the same pictures.
    """
    pictures, total, draw = white_pictures(source, model.resolution_px), 0.0, torch.Generator().manual_seed(0)
    for x in batches(pictures, 64):
        mean, std = model.encode_tensor(x.to(model.device))
        noise = torch.randn(mean.shape, generator=draw).to(mean)
        parts = x.to(mean), model.decode(mean + std * noise), mean, 2 * std.log()
        total += float(codes.gaussian_bound(*parts, model.observation_std)[0]) * len(x)
    results.metrics["validation/bits_per_dim"] = float(bits_per_dim(total / len(pictures)))
    results.baseline["validation/bits_per_dim"] = bits_of_pixels_apart(pictures)


def note_drawn(results: Results, model: contract.Autoencoder, dataset_name: str, columns: dict) -> None:
    """Note what `drawn.measure` says of pictures from the Gaussians of labels.

    untempered/…: the same of all that it has learned, at a temperature of 1.
    """
    names = list(model.space.label_names) if model.space else []
    exam = exam_of(model.name, dataset_name, names, model.resolution_px, columns, None)

    def draw(rows: Sequence, seed: int, temperature: float = contract.TEMPERATURE) -> np.ndarray:
        seeds = [draw_seed("draw", seed, at) for at in range(len(rows))]
        parts = [
            model.sample(rows[at : at + 64], seeds[at : at + 64], temperature=temperature)
            for at in range(0, len(rows), 64)
        ]
        return contract.to_uint8(torch.cat(parts))

    whole, every = exam.results(), functools.partial(draw, temperature=1.0)
    measure(whole, exam, every(exam.asked, 1), every)
    results.figures["samples"] = figures.sheet(measure(results, exam, draw(exam.asked, 1), draw), 12, zoom=2)
    results.metrics |= {f"untempered/{name}": whole.metrics[name] for name in AS_LEARNED if name in whole.metrics}


def scores_of(made: np.ndarray, pictures: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """Mean PSNR and SSIM of reconstructions uint8 (N, R, R, 3), and the PSNR of each."""
    decibels = np.minimum(metrics.psnr(made, pictures), 100.0)  # equal to the byte would be infinite
    return {"psnr": float(decibels.mean()), "ssim": float(metrics.ssim(made, pictures).mean())}, decibels
