"""How fast it draws and trains: `python -m benchmarks.text_to_image [--model emoji] [--part sampler|few|…]`.

Five questions, each answered within one run on one machine, so that ratios compare:

- sampler: the default sampler against the stock pipeline's DDIM with 50 steps on the same weights. Time of a picture,
  evaluations of the U-Net, and KID against real held-out pictures from the same seeds; a bootstrap over these pairs of
  pictures says whether the difference is more than chance.
- few: the same of a student (--student) in 4, 2 and 1 steps, against its teacher's default; and how many pictures of
  200 training captions the kept captioner names first.
- key: the page in a browser, with the student. From the last key to the first sketch.
- training: optimiser steps a second with cached latents and text states, against --no_cache.
- click: the page in a browser. Seconds from the click to the first preview and to the finished pictures.
"""

import argparse
import contextlib
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
from diffusers import DDIMScheduler, DiffusionPipeline
from PIL import Image

from benchmarks.table import markdown, write
from hub_models import store, text_to_image
from training import judges, metrics
from training import text_to_image as training
from training.data.sources import open_source

PAIRS, BATCH, DDIM_STEPS = 512, 8, 50
TRAINING_STEPS = 12
CLICKS = 5
SHARE = "named first, of the teacher's"
PROMPT = "#text-to-image-prompt textarea, #text-to-image-prompt input"


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


def stock_drawings(name: str, prompts: Sequence[str]) -> tuple[np.ndarray, float, float]:
    """The same by the library alone: its own pipeline with DDIM, as it is, from the same seeds."""
    folder = store.resolve("text_to_image", name)
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    scale = json.loads((folder / "preprocessor_config.json").read_text())["guidance_scale"]
    began, made = time.perf_counter(), []
    for at in range(0, len(prompts), BATCH):
        part = list(prompts[at : at + BATCH])
        draws = [torch.Generator().manual_seed(at + k) for k in range(len(part))]
        drawn = pipe(part, num_inference_steps=DDIM_STEPS, guidance_scale=scale, generator=draws)
        made += [np.asarray(picture) for picture in drawn.images]
    return np.stack(made), (time.perf_counter() - began) / len(prompts), 2.0 * DDIM_STEPS


class Yardstick:
    """Prompts that weren't trained on, and the real pictures there in the kept judge's features."""

    def __init__(self, model, name: str):
        self.judge, chosen = judges.load(), training.evaluation.trained_on(store.resolve("text_to_image", name))
        validation, pairs = (
            training.selection.select(open_source("emoji", split=split), **chosen)
            for split in ("validation", "heldout_pairs")
        )
        distinct = training.evaluation.distinct_rows
        asked = [part.prompts[row] for part in (validation, pairs) for row in distinct(part, len(part))]
        self.prompts = (asked * (PAIRS // len(asked) + 1))[:PAIRS]
        real = np.concatenate([training.evaluation.pictures_of(part, model) for part in (validation, pairs)])
        self.real = metrics.in_batches(self.judge.classifier.features, real)
        self.known = training.selection.select(open_source("emoji", split="train"), **chosen)

    def row(self, pictures: np.ndarray, seconds: float, evaluations: float) -> tuple[dict, np.ndarray]:
        """What is said of some drawings, and their features."""
        features = metrics.in_batches(self.judge.classifier.features, pictures)
        kid, *_ = metrics.kernel_inception_distance(features, self.real)
        row = {"pictures through the U-Net": evaluations, "ms a picture": 1000 * seconds, "KID×1000": 1000 * kid}
        return row, features

    def apart(self, ours: np.ndarray, theirs: np.ndarray) -> dict:
        """The difference of two KID×1000 with its interval, in numbers and in words."""
        values = bootstrap(ours, theirs, self.real)
        low, high = np.percentile(values, [2.5, 97.5])
        says = f"{values.mean():+.2f}, 95 % interval {low:+.2f} … {high:+.2f} ({'worse' if low > 0 else 'no worse'})"
        return {"kid_difference": [float(values.mean()), float(low), float(high)], "says": says}

    def named_first(self, model, **settings) -> float:
        """Of 200 training captions, as `training.evaluate` draws them."""
        rows = training.evaluation.distinct_rows(self.known, 200)
        drawn = training.evaluation.draw(model, [self.known.prompts[row] for row in rows], 1, **settings)
        said = self.judge.captioner.caption_all([Image.fromarray(picture) for picture in drawn])
        names = [self.known.names[row] for row in rows]
        return float(np.mean([judges.is_named(one[0].text, name) for one, name in zip(said, names, strict=True)]))


def sampler(model, name: str) -> dict:
    yardstick, default = Yardstick(model, name), {"sampler": model.default_sampler}
    default["num_inference_steps"] = model.default_steps
    paired_drawings(model, yardstick.prompts[:BATCH], default)  # the first call pays for allocations
    ours, features = yardstick.row(*paired_drawings(model, yardstick.prompts, default))
    theirs, reference = yardstick.row(*stock_drawings(name, yardstick.prompts))
    ratio, apart = theirs["ms a picture"] / ours["ms a picture"], yardstick.apart(features, reference)
    rows = [{"sampler": model.default_sampler, "steps": model.default_steps} | ours]
    rows.append({"sampler": "ddim, the stock pipeline's", "steps": DDIM_STEPS} | theirs)
    return apart | {
        "rows": rows,
        "time_ratio": ratio,
        "says": f"{PAIRS} paired seeds. The default is {ratio:.1f} times as fast; its KID×1000 minus that of the "
        f"reference: {apart['says']}.",
    }


def few(model, name: str, student_name: str) -> dict:
    student, yardstick = text_to_image.load(student_name), Yardstick(model, name)
    asked: list[tuple] = [(model, {}), *((student, {"num_inference_steps": steps}) for steps in (4, 2, 1))]
    paired_drawings(model, yardstick.prompts[:BATCH], {})
    rows, features = [], []
    for who, settings in asked:
        row, seen = yardstick.row(*paired_drawings(who, yardstick.prompts, settings))
        steps = settings.get("num_inference_steps", who.default_steps)
        rows.append({"model": who.name, "steps": steps} | row | {"named first": yardstick.named_first(who, **settings)})
        features.append(seen)
    said = []
    for row, seen in zip(rows[1:], features[1:], strict=True):
        apart = yardstick.apart(seen, features[0])
        row |= {"times as fast": rows[0]["ms a picture"] / row["ms a picture"],
                SHARE: row["named first"] / rows[0]["named first"],
                "KID×1000 less the teacher's": apart["kid_difference"]}  # fmt: skip
        said.append(
            f"{row['steps']} steps: {row['times as fast']:.1f} times as fast as the teacher, KID×1000 less the "
            f"teacher's {apart['says']}, named first {row[SHARE]:.2f} times as often."
        )
    shown = [{key: value for key, value in row.items() if key != "KID×1000 less the teacher's"} for row in rows]
    return {"rows": shown, "differences": rows[1:], "says": f"{PAIRS} paired seeds. " + " ".join(said)}


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


@contextlib.contextmanager
def opened(models: dict):
    """The address of the page over these models, and a browser."""
    from playwright.sync_api import sync_playwright

    from apps import text_to_image as app
    from apps.kit import launch

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise SystemExit("this part needs chromium")
    demo = app.build(models)
    with closing(demo), sync_playwright() as playwright:
        address = launch.launch(demo, block=False)
        with playwright.chromium.launch(executable_path=program, args=["--no-sandbox"]) as browser:
            yield address, browser


def click(model) -> dict:
    from apps.text_to_image.page import PICTURES

    rows = []
    with opened({model.name: model}) as (address, browser):
        for turn in range(CLICKS + 1):
            page = browser.new_page()
            page.goto(address)
            page.locator(PROMPT).fill("a red apple")
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
    middle = {key: float(np.median([row[key] for row in rows])) for key in ("first preview, s", "done, s")}
    return {
        "rows": rows,
        "median": middle,
        "says": f"{PICTURES} pictures, {model.default_steps} steps: first preview after "
        f"{middle['first preview, s']:.2f} s, done after {middle['done, s']:.2f} s (medians of {CLICKS}).",
    }


# ---- a key -----------------------------------------------------------------------------------------------------------

TYPE = """() => {
  const sheet = document.querySelector('#text-to-image-sheet'), was = sheet.querySelector('img')?.src;
  window.typed = window.shown = null;
  window.watching?.disconnect();
  const box = document.querySelector('#text-to-image-prompt');
  box.addEventListener('input', () => { window.typed = performance.now(); });
  window.watching = new MutationObserver(() => {
    const image = sheet.querySelector('img');
    if (window.typed && image && image.src !== was) window.shown ??= performance.now();
  });
  window.watching.observe(sheet, { childList: true, subtree: true, attributes: true });
}"""


def key(model, student_name: str) -> dict:
    """One key a time, after a pause, on a page that has drawn already."""
    student, times = text_to_image.load(student_name), []
    with opened({model.name: model, student.name: student}) as (address, browser):
        page = browser.new_page()
        page.goto(address)
        page.wait_for_function("() => document.querySelectorAll('#text-to-image-sheet img').length", timeout=120_000)
        for letter in "a red apple with a green leaf":
            page.wait_for_timeout(600)
            page.evaluate(TYPE)
            page.locator(PROMPT).press_sequentially(letter)
            if letter != " ":  # a prompt that ends with a space is the one before it, and gives the same picture
                page.wait_for_function("() => window.shown", timeout=60_000)
                times.append(page.evaluate("window.shown - window.typed"))
    middle, slow = float(np.median(times[1:])), float(np.percentile(times[1:], 95))
    return {
        "rows": [{"sketches": len(times) - 1, "median, ms": middle, "95th percentile, ms": slow}],
        "says": f"From a key to its sketch, the wait of 60 ms in it: {middle:.0f} ms (median of {len(times) - 1}).",
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.text_to_image", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="emoji", help="a bundled variant or a folder")
    parser.add_argument("--student", default="emoji-few", help="of `few` and `key`")
    parser.add_argument("--part", choices=("sampler", "few", "key", "training", "click"), action="append")
    args = parser.parse_args(argv)
    model = text_to_image.load(args.model)
    parts = {
        "sampler": lambda: sampler(model, args.model),
        "few": lambda: few(model, args.model, args.student),
        "key": lambda: key(model, args.student),
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
