"""How fast it draws and trains: `python -m benchmarks.text_to_image [--model emoji] [--part sampler|training|click]`.

Three questions, each answered within one run on one machine, so that ratios compare:

- sampler: the default sampler against DDIM with 50 steps on the same weights. Time of a picture, evaluations of the
  U-Net, and KID against real held-out pictures from the same seeds; a bootstrap over these pairs of pictures says
  whether the difference is more than chance.
- training: optimiser steps a second with cached latents and text states, against --no_cache.
- click: the page in a browser. Seconds from the click to the first preview and to the finished pictures.
"""

import argparse
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from benchmarks.table import markdown, write
from hub_models import store, text_to_image
from training import judges, metrics
from training import text_to_image as training
from training.data.sources import open_source

PAIRS, BATCH, DDIM_STEPS = 512, 8, 50
TRAINING_STEPS = 12
CLICKS = 5


# ---- samplers --------------------------------------------------------------------------------------------------------


def paired_drawings(model, prompts: Sequence[str], settings: dict) -> tuple[np.ndarray, float, float]:
    """Pictures uint8 (N, R, R, 3) from seeds 0 … N - 1, seconds a picture, and U-Net evaluations a picture."""
    calls = []
    counted = model.pipe.unet.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    began, made = time.perf_counter(), []
    for at in range(0, len(prompts), BATCH):
        part = list(prompts[at : at + BATCH])
        *_, last = model.generate(part, list(range(at, at + len(part))), **settings)
        made += [np.asarray(picture) for picture in model.decode(last.latents)]
    seconds = time.perf_counter() - began
    counted.remove()
    return np.stack(made), seconds / len(prompts), sum(calls) / len(prompts)


def bootstrap(ours: np.ndarray, theirs: np.ndarray, real: np.ndarray, draws: int = 1000) -> np.ndarray:
    """KID×1000 of ours minus that of theirs, (draws,): pairs of drawn pictures resampled together, real ones with them.

    The unbiased estimator (Gretton 2012) with the polynomial kernel of Bińkowski 2018. A resampled set holds pictures
    twice, and k(x, x) would pass for likeness; so kernel values of a picture with itself are left out of the sums.
    """
    dimension = ours.shape[1]

    def kernel(a, b):
        return (a @ b.T / dimension + 1) ** 3

    within = kernel(ours, ours) - kernel(theirs, theirs)  # (N, N)
    across = kernel(ours, real) - kernel(theirs, real)  # (N, M)
    random, values = np.random.default_rng(0), []
    for _ in range(draws):
        rows, columns = random.integers(len(ours), size=len(ours)), random.integers(len(real), size=len(real))
        different = rows[:, None] != rows[None]
        inner = within[rows][:, rows][different].mean()
        values.append(1000 * (inner - 2 * across[rows][:, columns].mean()))
    return np.array(values)


def sampler(model, name: str) -> dict:
    chosen = training.evaluation.trained_on(store.resolve("text_to_image", name))
    validation = training.selection.select(open_source("emoji", split="validation"), **chosen)
    pairs = training.selection.select(open_source("emoji", split="heldout_pairs"), **chosen)
    asked = [
        part.prompts[row] for part in (validation, pairs) for row in training.evaluation.distinct_rows(part, len(part))
    ]
    prompts = (asked * (PAIRS // len(asked) + 1))[:PAIRS]
    default = {"sampler": model.default_sampler, "num_inference_steps": model.default_steps}
    reference = {"sampler": "ddim", "num_inference_steps": DDIM_STEPS}
    paired_drawings(model, prompts[:BATCH], default)  # the first call pays for allocations
    space = judges.load().classifier
    real = np.concatenate([training.evaluation.pictures_of(part, model) for part in (validation, pairs)])
    real = metrics.in_batches(space.features, real)
    rows, features = [], {}
    for name, settings in (("default", default), ("reference", reference)):
        pictures, seconds, evaluations = paired_drawings(model, prompts, settings)
        features[name] = metrics.in_batches(space.features, pictures)
        kid, *_ = metrics.kernel_inception_distance(features[name], real)
        rows.append(
            {
                "sampler": settings["sampler"],
                "steps": settings["num_inference_steps"],
                "pictures through the U-Net": evaluations,
                "ms a picture": 1000 * seconds,
                "KID×1000": 1000 * kid,
            }
        )
    ratio = rows[1]["ms a picture"] / rows[0]["ms a picture"]
    apart = bootstrap(features["default"], features["reference"], real)
    low, high = np.percentile(apart, [2.5, 97.5])
    return {
        "rows": rows,
        "time_ratio": ratio,
        "kid_difference": [float(apart.mean()), float(low), float(high)],
        "says": f"{PAIRS} paired seeds. The default is {ratio:.1f} times as fast; its KID×1000 minus that of the "
        f"reference: {apart.mean():+.2f}, 95 % interval {low:+.2f} … {high:+.2f} "
        f"({'worse' if low > 0 else 'no worse'}).",
    }


# ---- training --------------------------------------------------------------------------------------------------------


def training_speed(name: str) -> dict:
    """Steps a second by the script's own log, the caches filled before."""
    rows = []
    with tempfile.TemporaryDirectory() as home:
        for title, flags in (("to fill the cache", []), ("cached", []), ("--no_cache", ["--no_cache"])):
            steps = 2 if title.startswith("to fill") else TRAINING_STEPS
            folder = Path(home, "run")
            began = time.perf_counter()
            training.main(
                ["--preset", "emoji", "--vae_name_or_path", name, "--clip_name_or_path", "emoji", "--output_dir",
                 str(folder), "--max_train_steps", str(steps), "--validation_steps", "10000", "--logging_steps", "1",
                 "--checkpointing_steps", "10000", *flags]
            )  # fmt: skip
            logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            speeds = [line["images_per_second"] for line in logged if "images_per_second" in line][2:]
            shutil.rmtree(folder)
            if speeds:
                rows.append(
                    {
                        "latents and states": title,
                        "images/s": float(np.median(speeds)),
                        "whole run, s": time.perf_counter() - began,
                    }
                )
    ratio = rows[0]["images/s"] / rows[1]["images/s"]
    return {"rows": rows, "ratio": ratio, "says": f"Cached training is {ratio:.1f} times as fast (median of steps)."}


# ---- a click ---------------------------------------------------------------------------------------------------------

WATCH = """() => {
  window.marks = { previews: [], done: null };
  const sheet = document.querySelector('#text-to-image-sheet');
  new MutationObserver(() => {
    const now = performance.now();
    if (sheet.querySelector('[data-save]')) window.marks.done ??= now;
    else if (sheet.querySelector('img')) window.marks.previews.push(now);
  }).observe(sheet, { childList: true, subtree: true, attributes: true });
  window.clicked = performance.now();
  document.querySelector('#text-to-image-draw').click();
}"""


def click(model) -> dict:
    from playwright.sync_api import sync_playwright

    from apps import text_to_image as app
    from apps.kit import launch

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise SystemExit("this part needs chromium")
    demo = app.build({model.name: model})
    rows = []
    with closing(demo), sync_playwright() as playwright:
        address = launch.launch(demo, block=False)
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for turn in range(CLICKS + 1):
            page = browser.new_page()
            page.goto(address)
            page.locator("#text-to-image-prompt textarea, #text-to-image-prompt input").fill("a red apple")
            page.wait_for_timeout(500)
            page.evaluate(WATCH)
            page.wait_for_function("() => window.marks.done", timeout=120_000)
            marks, clicked = page.evaluate("window.marks"), page.evaluate("window.clicked")
            page.close()
            if turn:  # the first click warms up
                rows.append(
                    {
                        "click": turn,
                        "first preview, s": (marks["previews"][0] - clicked) / 1000,
                        "done, s": (marks["done"] - clicked) / 1000,
                        "previews": len(marks["previews"]),
                    }
                )
        browser.close()
    middle = {key: float(np.median([row[key] for row in rows])) for key in ("first preview, s", "done, s")}
    return {
        "rows": rows,
        "median": middle,
        "says": f"{app.page.PICTURES} pictures, {model.default_steps} steps: first preview after "
        f"{middle['first preview, s']:.2f} s, done after {middle['done, s']:.2f} s (medians of {CLICKS}).",
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.text_to_image", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="emoji", help="a bundled variant or a folder")
    parser.add_argument("--part", choices=("sampler", "training", "click"), action="append")
    args = parser.parse_args(argv)
    model = text_to_image.load(args.model)
    parts = {
        "sampler": lambda: sampler(model, args.model),
        "training": lambda: training_speed(args.model),
        "click": lambda: click(model),
    }
    for part in args.part or parts:
        found = parts[part]()
        print(f"\n## text_to_image: {part} ({platform.machine()}, {torch.get_num_threads()} threads)\n")
        print(markdown(found["rows"]), f"\n{found['says']}", sep="\n", flush=True)
        write(f"text_to_image-{part}", found)


if __name__ == "__main__":
    main()
