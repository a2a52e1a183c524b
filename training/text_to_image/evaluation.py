"""What drawn pictures are worth: whether they are what was asked for, and like real ones.

Letters: N pictures, R side of the picture in pixels, C × h × w a latent, L tokens, D width of states.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from diffusers import DDPMScheduler
from PIL import Image

from hub_models import autoencoder as autoencoder_contract
from hub_models import text_to_image as contract
from hub_models.pictures import to_uint8
from training import figures, judges, metrics, publish
from training.data.facts import facts_of
from training.data.sources import open_source
from training.diffusion import held_out_loss, nearest_train_distance
from training.order import draw_seed
from training.task import Results
from training.text_to_image import judging
from training.text_to_image.selection import Selection, select

# What is drawn: of a data set that the judges know, things and styles that were trained on, pairs of them that were
# not, and things that never were, which no model can draw but by copying what it shouldn't have.
JUDGED = {"train": "train", "heldout_pairs": "heldout_pairs", "unseen_concepts": "validation"}
OTHERS = {"train": "train", "validation": "validation"}
STRATA, FEW = 48, 8  # pictures that a loss is measured on; FEW where the data are a sample


def evaluate_checkpoint(name: str, dataset_name: str, *, columns: dict | None = None, pictures: int = 200) -> Results:
    """What a saved model draws, for captions of the groups and styles that it was trained on.

    Of each set one picture of each of `pictures` names, for their plain captions with their style. named_first,
    named_top5, classed: see `training.judges`; style_right, style_by_chance: see `judging`. The baseline is the same
    for real pictures of these captions, autoencoder/… for these through the autoencoder. colours/…: see `judging`.
    kid_x1000: see `training.judges`, between pictures drawn for captions that weren't trained on and the pictures
    there. Judges speak of emoji alone. held_out_loss: see `Strata`. nearest_train_distance: median root mean square
    distance in [0, 1] pixels, at 32 px, to the nearest training picture, beside that of real held-out pictures; far
    below that would be copying. columns: of `open_source`.
    """
    model, folder = contract.load(name), contract.resolve(name)
    chosen, ours = trained_on(folder), "heldout_pairs" in facts_of(dataset_name).evaluation_sets
    columns = columns or {}
    sets = {which: select(open_source(dataset_name, split=split, **columns), own="caption_column" in columns, **chosen)
            for which, split in (JUDGED if ours else OTHERS).items()}  # fmt: skip
    train, *held_out = sets.values()
    judge, vae = judges.load() if ours else None, autoencoder_contract.load(str(folder / "vae"), device=model.device)
    results = Results("real pictures", hashes=[part.source.data_hash for part in held_out])
    results.more = ({"judges": judge.said} if judge else {}) | {
        "settings": {
            "sampler": model.default_sampler, "steps": model.default_steps, "guidance": model.default_guidance,
        },
        "restricted_to": chosen,
    }  # fmt: skip
    known, drawn = pictures_of(train, model), {}
    styles = judging.Styles(known, train) if ours else None
    for seed, (which, part) in enumerate(sets.items(), 1):
        rows = distinct_rows(part, pictures)
        drawn[which] = draw(model, [part.prompts[row] for row in rows], seed)
        if styles is None or judge is None:
            continue
        shown = np.stack([bytes_of(part.picture(row), model) for row in rows])
        asked = [part.names[row] for row in rows], [classes_of(part)[row] for row in rows]
        scores, of_real, rebuilt = (judge.scores(p, *asked) for p in (drawn[which], shown, through(vae, shown)))
        style, style_of_real = (styles.scores(p, part, rows) for p in (drawn[which], shown))
        rebuilt = {f"autoencoder/{key}": value for key, value in rebuilt.items()}
        results.note(which, scores | style | rebuilt, of_real | style_of_real)
    real = np.concatenate([pictures_of(part, model) for part in held_out])
    if judge:
        judge.note_kid(results, np.concatenate([drawn[which] for which in sets if which != "train"]), real, known)
    scheduler = DDPMScheduler.from_config(model.pipe.scheduler.config)
    near, near_of_real = (nearest_train_distance(small(images), small(known)) for images in (drawn["train"], real))
    results.metrics |= {
        "held_out_loss": Strata(held_out[-1], model, vae).loss(model.pipe.unet, scheduler),
        "nearest_train_distance": near,
        "pictures": sum(map(len, drawn.values())),
    }
    results.baseline["nearest_train_distance"] = near_of_real
    if judge is None:
        results.left_out.append(
            "What was drawn isn't named or classed, nor its distance to real pictures (KID) measured: the judges know "
            "the things of emoji alone."
        )
    elif real_colours := judging.painted(train):
        asked = [prompt for *_, prompt in judging.colour_prompts()]
        shown = np.stack([bytes_of(picture, model) for picture in real_colours])
        results.note("colours", *(judging.colour_scores(p, judge.captioner) for p in (draw(model, asked, 4), shown)))
    shown = [part[: 48 if which == "train" else 16] for which, part in drawn.items()]
    results.figures["samples"] = figures.sheet(np.concatenate(shown), 16)
    return results


def trained_on(folder: Path) -> dict[str, tuple[str, ...]]:
    """The groups and styles that the model of a folder was trained on, for `select`; empty where all, or unknown."""
    run = json.loads((folder / publish.RUN).read_text()) if (folder / publish.RUN).is_file() else {}
    return {key: tuple(run.get("config", {}).get(key, ())) for key in ("groups", "styles")}


class Strata:
    """Fixed pictures and captions of a selection to measure a loss on: see `training.diffusion.held_out_loss`."""

    def __init__(self, selection: Selection, model: contract.TextToImage, vae):
        pictures = FEW if selection.source.facts.sample else STRATA
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


def classes_of(selection: Selection) -> list[str]:
    """The class of each picture of a selection."""
    return [selection.source.label_names[selection.source.label(row)] for row in selection.rows]


def through(vae, pictures: np.ndarray) -> np.ndarray:
    """Pictures uint8 (N, R, R, 3) as the autoencoder gives them back: the best that can be drawn through it."""
    return metrics.in_batches(lambda part: to_uint8(vae.decode(vae.encode(part)[0])), pictures, batch_size=16)


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
