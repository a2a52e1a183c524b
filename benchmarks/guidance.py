"""How far to guide: label accuracy and diversity by guidance scale, `python -m benchmarks.guidance [--write]`.

Pictures of `ddpm/emoji-32`, as many of each class, the same seeds in every row, by DPM-Solver++ with 20 steps: without
guidance, by classifier-free guidance (Ho & Salimans 2022) of scale w, and by the gradient of a classifier of noisy
pictures, γ times (Dhariwal & Nichol 2021), on the model that isn't told the class and on the one that is. The judge is
the kept classifier of `training.judges`, which is another network than the one that guides. --write puts the table
into docs/RESULTS.md.
"""

import argparse
import json
import time
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.table import markdown, write
from hub_models import classifier, ddpm
from hub_models.pictures import to_uint8
from training import judges, metrics, results
from training.data.sources import open_source
from training.drawn import picture_tensor

STEPS = 20
UNTOLD, TOLD = "class not told", "class told"
ROWS = [  # what is said, w, γ; w = 0 is the model's guess without the class
    (f"none, {UNTOLD}", 0.0, 0.0), (f"none, {TOLD}", 1.0, 0.0),
    *((f"classifier-free, w = {w:g}", w, 0.0) for w in (2.0, 3.0, 5.0, 8.0)),
    *((f"by a classifier, {UNTOLD}, γ = {g:g}", 0.0, g) for g in (1.0, 2.0, 4.0, 8.0)),
    *((f"by a classifier, {TOLD}, γ = {g:g}", 1.0, g) for g in (1.0, 2.0, 4.0, 8.0)),
]  # fmt: skip


def draw(model: ddpm.DDPM, guide: classifier.Classifier, rows: Sequence[int], w: float, gamma: float) -> np.ndarray:
    """A picture of each label, uint8 (N, R, R, 3), from the seeds 0 to N - 1."""
    parts = []
    for start in range(0, len(rows), 48):
        some = rows[start : start + 48]
        steps = model.generate(some, range(start, start + len(some)), num_inference_steps=STEPS, guidance_scale=w,
                               sampler="dpm++", guide=guide, guide_scale=gamma)  # fmt: skip
        for step in steps:
            last = step.x_t
        parts.append(to_uint8(last))
    return np.concatenate(parts)


def judged(jury: judges.Judges, pictures: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
    """Per cent of pictures that the judge takes for their label, its probability of it, and their diversity.

    Diversity is the mean distance of two pictures of one label in the judge's features, 0 where all are alike.
    """
    logits = metrics.in_batches(jury.classifier.logits, pictures)  # (N, K)
    asked = np.array([jury.classifier.label_names.index(label) for label in labels])
    sure = torch.from_numpy(logits).softmax(1).numpy()[np.arange(len(asked)), asked]
    features = metrics.in_batches(jury.classifier.features, pictures)  # (N, D)
    apart = []
    for row in np.unique(asked):
        own = torch.from_numpy(features[asked == row])
        apart.append(float(torch.pdist(own).mean()))
    right = float((logits.argmax(1) == asked).mean())
    return {
        "label right, %": 100 * right,
        "its probability, %": 100 * float(sure.mean()),
        "apart": float(np.mean(apart)),
    }


def real(model: ddpm.DDPM, jury: judges.Judges) -> dict[str, float]:
    """The same of validation pictures, at the model's resolution; classes of which there are two at least."""
    source = open_source("emoji", split="validation")
    counts = np.bincount(source.labels, minlength=len(source.label_names))
    kept = [row for row in range(len(source)) if counts[source.labels[row]] > 1]
    pictures = to_uint8(picture_tensor(source, model.resolution_px))[kept]
    return judged(jury, pictures, [source.label_names[source.labels[row]] for row in kept])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.guidance", description=__doc__.split("\n")[0])
    parser.add_argument("--of_each", type=int, default=16, help="pictures of each class in each row")
    parser.add_argument("--guide", default="noised", help="a classifier of noisy pictures: variant, folder or Hub id")
    parser.add_argument("--write", action="store_true", help="put the table into docs/RESULTS.md")
    args = parser.parse_args(argv)
    model, guide, jury = ddpm.load("emoji-32"), classifier.load(args.guide), judges.load()
    numbers = np.repeat(np.arange(len(model.label_names)), args.of_each).tolist()
    labels = [model.label_names[number] for number in numbers]
    of_real, rows = real(model, jury), []
    for said, w, gamma in [*ROWS, ("real pictures", None, None)]:
        began = time.perf_counter()
        found = judged(jury, draw(model, guide, numbers, w, gamma), labels) if w is not None else dict(of_real)
        found["diversity, % of real"] = 100 * found.pop("apart") / of_real["apart"]
        seconds = (time.perf_counter() - began) / len(numbers)
        rows.append({"guidance": said} | found)
        print(markdown(rows[-1:]).splitlines()[-1], f"{seconds:.2f} s a picture", flush=True)
    told = {
        "pictures": len(numbers),
        "model": model.weights_sha256[:12],
        "guide": guide.weights_sha256[:12],
        "rows": rows,
    }
    write("guidance", told)
    if args.write:
        results.GUIDANCE.write_text(json.dumps(told, indent=1) + "\n")
        results.main([])


if __name__ == "__main__":
    main()
