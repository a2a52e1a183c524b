"""What drawn pictures are worth: whether they are what was asked for, and like real ones.

Letters: N pictures, R side of the picture in pixels, C × h × w a latent, L tokens, D width of states and rows, M texts.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from diffusers import DDPMScheduler
from PIL import Image

from hub_models import autoencoder as autoencoder_contract
from hub_models import captioning as captioner_contract
from hub_models import classifier as judge_contract
from hub_models import clip as clip_contract
from hub_models import store
from hub_models import text_to_image as contract
from training import figures, metrics, publish
from training.data import captions
from training.data.facts import facts_of
from training.data.sources import open_source
from training.diffusion import held_out_loss, nearest_train_distance
from training.order import draw_seed
from training.task import Results
from training.text_to_image import judging
from training.text_to_image.model import STEM
from training.text_to_image.selection import Selection, select


def evaluate_checkpoint(name: str, dataset_name: str, *, pictures: int = 200) -> Results:
    """What a saved model draws, for captions of the groups and styles that it was trained on.

    retrieval_precision: share of drawn pictures whose own caption comes first among 100 by the bundled CLIP (one
    picture each for 200 training captions with their style, and for 100 held-out pairs; captions are compared in their
    plain form); retrieval_precision_real, and the baseline, are the same for the real pictures of these captions.
    kid_x1000: kernel inception distance (Bińkowski 2018) in the feature space of the bundled classifier "swin", between
    pictures drawn for the captions of validation and held-out pairs, and the pictures there; the baseline is training
    pictures against them. colours/…: see `judging`. held_out_loss: see `Strata`. nearest_train_distance: median root
    mean square distance in [0, 1] pixels, at 32 px, to the nearest training picture, beside that of real held-out
    pictures; far below that would be copying.
    """
    model, folder = contract.load(name), store.resolve(STEM, name)
    chosen, has_pairs = trained_on(folder), "heldout_pairs" in facts_of(dataset_name).evaluation_sets
    train, validation = (select(open_source(dataset_name, split=split), **chosen) for split in ("train", "validation"))
    pairs = select(open_source(dataset_name, split="heldout_pairs"), **chosen) if has_pairs else validation
    judge, space = clip_contract.load("emoji"), judge_contract.load("swin")
    vae = autoencoder_contract.load(str(folder / "vae"), device=model.device)
    results = Results("real pictures", hashes=[part.source.data_hash for part in (validation, pairs)])
    results.more = {
        "judges": {
            "retrieval_precision": f"clip/emoji {judge.weights_sha256[:12]}",
            "kid": f"classifier/swin {space.weights_sha256[:12]}",
        },
        "settings": {
            "sampler": model.default_sampler, "steps": model.default_steps, "guidance": model.default_guidance,
        },
        "restricted_to": chosen,
    }  # fmt: skip
    drawn: dict[str, np.ndarray] = {}
    for split, part, count, seed in (("train", train, pictures, 1), ("heldout_pairs", pairs, pictures // 2, 2)):
        rows = distinct_rows(part, count)
        drawn[split] = draw(model, [part.prompts[row] for row in rows], seed)
        names, pool = [part.names[row] for row in rows], sorted(set(train.names) | set(part.names))
        real = np.stack([bytes_of(part.picture(row), model) for row in rows])
        right, right_of_real = (retrieval_precision(judge, images, names, pool) for images in (drawn[split], real))
        measured = {"retrieval_precision": right, "retrieval_precision_real": right_of_real}
        results.note(split, measured, {"retrieval_precision": right_of_real})
    rows = distinct_rows(validation, pictures)
    drawn["validation"] = draw(model, [validation.prompts[row] for row in rows], 3)
    held_out = [validation, pairs] if has_pairs else [validation]
    known, real = pictures_of(train, model), np.concatenate([pictures_of(part, model) for part in held_out])
    scheduler = DDPMScheduler.from_config(model.pipe.scheduler.config)
    mixed = np.concatenate([drawn["validation"], drawn["heldout_pairs"]])
    of_mixed, of_real, of_known = (metrics.in_batches(space.features, images) for images in (mixed, real, known))
    kid, kid_std = metrics.kernel_inception_distance(of_mixed, of_real)
    floor, _ = metrics.kernel_inception_distance(of_known, of_real)
    near, near_of_real = (nearest_train_distance(small(images), small(known)) for images in (drawn["train"], real))
    results.metrics |= {
        "kid_x1000": 1000 * kid,
        "kid_x1000_std": 1000 * kid_std,
        "held_out_loss": Strata(validation, model, vae).loss(model.pipe.unet, scheduler),
        "nearest_train_distance": near,
        "pictures": sum(map(len, drawn.values())),
    }
    results.baseline |= {"kid_x1000": 1000 * floor, "nearest_train_distance": near_of_real}
    if train.source.facts.ours and (real_colours := judging.painted(train)):
        captioner, asked = captioner_contract.load("emoji"), [prompt for *_, prompt in judging.colour_prompts()]
        real = np.stack([bytes_of(picture, model) for picture in real_colours])
        scores, of_real = (judging.colour_scores(images, captioner) for images in (draw(model, asked, 4), real))
        results.note("colours", scores, of_real)
        results.more["judges"]["colours"] = f"captioning/emoji {captioner.weights_sha256[:12]}"
    shown = np.concatenate([drawn["train"][:48], drawn["heldout_pairs"][:16], drawn["validation"][:16]])
    results.figures["samples"] = figures.sheet(shown, 16)
    return results


def trained_on(folder: Path) -> dict[str, tuple[str, ...]]:
    """The groups and styles that the model of a folder was trained on, for `select`; empty where all, or unknown."""
    run = json.loads((folder / publish.RUN).read_text()) if (folder / publish.RUN).is_file() else {}
    return {key: tuple(run.get("config", {}).get(key, ())) for key in ("groups", "styles")}


class Strata:
    """Fixed pictures and captions of a selection to measure a loss on: see `training.diffusion.held_out_loss`."""

    def __init__(self, selection: Selection, model: contract.TextToImage, vae, pictures: int = 48):
        rows = np.linspace(0, len(selection) - 1, min(pictures, len(selection))).astype(int)
        selection.source.preload(vae.resolution_px)
        self.mean, _ = vae.encode([selection.picture(i) for i in rows])  # (N, C, h, w)
        self.states = model.text_states([selection.captions[i][0] for i in rows])  # (N, L, D)

    def loss(self, unet, scheduler) -> float:
        return held_out_loss(unet, scheduler, self.mean, encoder_hidden_states=self.states)


def draw(model: contract.TextToImage, prompts: Sequence[str], seed: int, *, batch_size=16, **settings) -> np.ndarray:
    """One picture per prompt, uint8 (N, R, R, 3), at default `settings` or others; picture i has seed f(seed, i)."""
    made = []
    for at in range(0, len(prompts), batch_size):
        part = list(prompts[at : at + batch_size])
        *_, last = model.generate(part, [draw_seed("draw", seed, at + i) for i in range(len(part))], **settings)
        made += [np.asarray(picture) for picture in model.decode(last.latents)]
    return np.stack(made)


def distinct_rows(selection: Selection, count: int) -> list[int]:
    """At most `count` rows of distinct names, in a fixed random order."""
    seen, rows = set(), []
    for row in np.random.default_rng(0).permutation(len(selection)):
        if selection.names[row] not in seen and len(rows) < count:
            seen.add(selection.names[row])
            rows.append(int(row))
    return rows


def retrieval_precision(
    judge: clip_contract.CLIP, images: np.ndarray, names: list[str], pool: list[str], of=100
) -> float:
    """Share of images uint8 (N, R, R, 3) whose own plain caption is the nearest of `of`: it and others of the pool."""
    own = embed_texts(judge, names)  # (N, D)
    others = embed_texts(judge, pool)  # (M, D)
    seen = np.concatenate([np.asarray(judge.embed_images([Image.fromarray(p) for p in images[at : at + 64]]).cpu())
                           for at in range(0, len(images), 64)])  # fmt: skip
    right = 0
    for i, name in enumerate(names):
        rest = [k for k, other in enumerate(pool) if other != name]
        rest = np.random.default_rng(draw_seed("retrieval", i)).permutation(rest)[: of - 1]
        right += bool((seen[i] @ own[i] > others[rest] @ seen[i]).all())
    return right / len(names)


def embed_texts(judge: clip_contract.CLIP, names: list[str]) -> np.ndarray:
    """Unit rows (N, D) of the plain captions of names."""
    parts = [[captions.plain(name) for name in names[at : at + 256]] for at in range(0, len(names), 256)]
    return np.concatenate([np.asarray(judge.embed_texts(part).cpu()) for part in parts])


def bytes_of(picture: Image.Image, model: contract.TextToImage) -> np.ndarray:
    """A real picture as the model would draw it, uint8 (R, R, 3)."""
    return np.asarray(model.frame(picture))


def pictures_of(selection: Selection, model: contract.TextToImage) -> np.ndarray:
    """All pictures of a selection, uint8 (N, R, R, 3)."""
    selection.source.preload(model.resolution_px)
    return np.stack([bytes_of(selection.picture(i), model) for i in range(len(selection))])


def small(pictures: np.ndarray, side_px: int = 32) -> np.ndarray:
    """Pictures uint8 (N, R, R, 3) area-averaged to (N, side_px, side_px, 3)."""
    return np.stack([np.asarray(Image.fromarray(p).resize((side_px, side_px), Image.Resampling.BOX)) for p in pictures])
