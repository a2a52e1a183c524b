"""What a tower is worth to 12 classes that it never saw: neighbours, a linear probe, and a few labels a class.

Letters: N pictures, D features, K classes, R side in pixels.
"""

import copy
import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from hub_models import pretrain as contract
from hub_models import store
from hub_models.pictures import frame
from training import figures, metrics, probes
from training.data.facts import facts_of
from training.data.files import DataError
from training.data.sources import Source, open_source
from training.data.split import known_concepts
from training.order import draw_seed
from training.pretrain.config import PretrainConfig
from training.pretrain.samples import pixels_of, view_of
from training.task import Results

SHOWN, NEAR = 10, 5  # pictures of the sheet, and neighbours of each
FEW_STEPS, FEW_BATCH, FEW_RATE = 150, 48, 5e-4  # of a fine-tuning with few labels
SEEN = PretrainConfig(views=2, scale=(0.5, 1.0), colour_share=0.5, grayscale_share=0.0, blur_share=0.0, ink_share=0.1)


def features_of(tower: contract.Tower, source: Source, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """What a tower makes of pictures of a source, (N, D) float32."""
    return metrics.in_batches(tower.features, (source.picture(int(row)) for row in rows))


def evenly(length: int, most: int) -> np.ndarray:
    """At most so many rows of `length`, evenly spread."""
    return np.arange(0, length, -(-length // most))


def labels_in(source: Source) -> np.ndarray | None:
    """The labels of a source, int64 (N,); None where it has none."""
    try:
        return source.labels
    except DataError:
        return None


def scores(tower: contract.Tower, train: Source, held_out: Source, most: int) -> dict[str, float]:
    """Numbers of a tower while it is trained: its effective rank, and where there are labels k-NN's accuracy."""
    known, asked = evenly(len(train), 2 * most), evenly(len(held_out), most)
    shown = features_of(tower, held_out, asked)
    found = {"effective_rank": probes.effective_rank(shown)}
    labels, truth = labels_in(train), labels_in(held_out)
    if labels is not None and truth is not None:
        guessed = probes.nearest_classes(features_of(tower, train, known), labels[known], shown)
        found["knn"] = float((guessed == truth[asked]).mean())
    return found


def evaluate_checkpoint(
    name: str, dataset_name: str, *, columns: dict | None = None, labels_each: Sequence[int] = ()
) -> Results:
    """What a saved tower is worth on each evaluation set, beside a fresh tower of its architecture (random/…).

    effective_rank: see `probes`. Where the data have labels, shares of pictures: knn, by a vote of neighbours among the
    training pictures; probe, by logistic regression on them; few_n for each n of labels_each, by the whole tower
    fine-tuned on n training pictures a class. Of an unseen style training concepts only. The baseline is the nearest
    neighbour in HOG and colour features among the training pictures. columns: of `open_source`.
    """
    if any(count < 1 for count in labels_each):
        raise SystemExit("--labels_each counts labels: give numbers from 1 on")
    folder = store.resolve("pretrain", name)
    tower = contract.load(name)
    fresh = contract.Tower(contract.untrained(folder).to(tower.device), name="random")
    train = open_source(dataset_name, split="train", **(columns or {}))
    parts = {
        split: open_source(dataset_name, split=split, **(columns or {}))
        for split in facts_of(dataset_name).evaluation_sets
    }
    results = Results("HOG + colour nearest neighbour", hashes=[part.data_hash for part in parts.values()])
    labels, rows = labels_in(train), np.arange(len(train))
    known = {which: features_of(which, train, rows) for which in (tower, fresh)}
    if labels is None:
        results.left_out.append(f"{dataset_name} has no labels: k-NN and probe are left out; --label_column names one.")
    else:
        reference = metrics.hog_colour_features(framed(train, rows))
    for split, source in parts.items():
        keep = known_concepts(source, split)
        found: dict[str, float] = {}
        shown = {which: features_of(which, source, keep) for which in (tower, fresh)}
        for which, prefix in ((tower, ""), (fresh, "random/")):
            found[f"{prefix}effective_rank"] = probes.effective_rank(shown[which])
        if labels is None:
            results.note(split, found | {"pictures": len(keep)})
            continue
        truth = source.labels[keep]
        ways: dict[str, Callable] = {"knn": probes.nearest_classes, "probe": probes.linear_classes}
        for which, prefix in ((tower, ""), (fresh, "random/")):
            for key, way in ways.items():
                guessed = way(known[which], labels, shown[which])
                found[prefix + key] = float((guessed == truth).mean())
        theirs = metrics.hog_colour_features(framed(source, keep))
        beside = metrics.nearest_neighbour_accuracy(reference, labels, theirs, truth)
        results.note(split, found | {"pictures": len(keep)}, {"knn": beside, "probe": beside})
    for count in labels_each if labels is not None else ():
        for which, prefix in ((tower, ""), (fresh, "random/")):
            told = few_labels(which, train, parts, count)
            results.metrics |= {f"{split}/{prefix}few_{count}": share for split, share in told.items()}
    first = next(iter(parts.values()))
    results.figures["neighbours"] = neighbours(tower, train, first, known[tower])
    return results


def framed(source: Source, rows: Sequence[int] | np.ndarray, size_px: int = 64) -> np.ndarray:
    """Pictures of a source whole in a white square: uint8 (N, size_px, size_px, 3)."""
    return np.stack([np.asarray(frame(source.picture(int(row)), size_px)) for row in rows])


def few_labels(tower: contract.Tower, train: Source, parts: dict[str, Source], count: int) -> dict[str, float]:
    """The accuracy on each part of the tower fine-tuned with `count` labelled training pictures a class.

    All of a copy of it learns, with a new linear layer, for FEW_STEPS steps of AdamW whose rate falls as a cosine; the
    pictures are the same for every tower. Of a class with fewer pictures all are taken.
    """
    labels, classes = train.labels, len(train.label_names)
    chosen = np.concatenate([
        np.random.default_rng(draw_seed("few", count, k)).permutation(np.flatnonzero(labels == k))[:count]
        for k in range(classes)
    ])  # fmt: skip
    model: Any = copy.deepcopy(tower.model).requires_grad_(True).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = torch.nn.Linear(tower.width, classes).to(tower.device)
        optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=FEW_RATE, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, FEW_STEPS)
        seen = dataclasses.replace(SEEN, resolution=tower.resolution_px)
        mean, std = (torch.tensor(three).view(3, 1, 1) for three in (tower.mean, tower.std))
        for step in range(FEW_STEPS):
            rng = random.Random(draw_seed("few", count, "step", step))
            rows = [int(chosen[rng.randrange(len(chosen))]) for _ in range(min(FEW_BATCH, 4 * len(chosen)))]
            x = torch.stack([pixels_of(view_of(train.picture(row), seen.scale, seen, rng)) for row in rows])
            x = ((x / 2 + 0.5 - mean) / std).to(tower.device)
            loss = F.cross_entropy(head(model(x)), torch.from_numpy(labels[rows]).to(tower.device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    tuned = contract.Tower(model.eval())
    found = {}
    for split, source in parts.items():
        keep = known_concepts(source, split)
        with torch.no_grad():
            logits = head(torch.from_numpy(features_of(tuned, source, keep)).to(tower.device))
        found[split] = float((logits.argmax(1).cpu().numpy() == source.labels[keep]).mean())
    return found


def neighbours(tower: contract.Tower, train: Source, held_out: Source, known: np.ndarray) -> Image.Image:
    """Held-out pictures, each with the training pictures whose features are nearest: a row a picture."""
    asked = evenly(len(held_out), SHOWN)
    cosine = probes.unit_rows(features_of(tower, held_out, asked)) @ probes.unit_rows(known).T
    near = np.argsort(-cosine, axis=1, kind="stable")[:, :NEAR]
    side, shown = tower.resolution_px, []
    for row, others in zip(asked, near, strict=True):
        shown += [framed(held_out, [row], side), framed(train, others, side)]
    return figures.sheet(np.concatenate(shown), columns=1 + near.shape[1])
