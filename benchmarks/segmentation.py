"""What segmenters cost: `python -m benchmarks.segmentation [--part predict|scaling|curves]`.

- predict: milliseconds of `predict` on a picture of 256 × 256 for each shipped backbone, its exact FLOPs, and the share
  of the rate at which this machine multiplies matrices in the same run.
- scaling: exact FLOPs of a Swin and of a plain ViT from 128 to 1024 px, the slope of each against pixels on logarithmic
  axes, and measured times beside (docs/scaling.png).
- curves: mIoU on validation scenes against pictures seen and against hours, of the shipped weights, by their run.json
  (docs/segmentation-curves.png).
"""

import argparse
import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import SwinConfig, SwinModel, ViTConfig, ViTModel

from benchmarks.table import markdown, write
from hub_models import segmentation, store
from training.segmentation.config import SIZES

DOCS = Path(__file__).parent.parent / "docs"
SIDES_PX = (128, 192, 256, 384, 512, 768, 1024)
REPEATS = 5


def seconds_of(call: Callable, repeats: int = REPEATS) -> float:
    """Median seconds of a call, after one that warms up."""
    call()
    took = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return float(np.median(took))


def gemm_rate(side: int = 2048) -> float:
    """FLOP/s of a square fp32 matrix product."""
    a, b = torch.randn(side, side), torch.randn(side, side)
    return 2 * side**3 / seconds_of(lambda: a @ b)


def flops_of(call: Callable) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


# ---- predict ---------------------------------------------------------------------------------------------------------


def predict() -> dict:
    rows, rate = [], gemm_rate()
    picture = Image.effect_noise((256, 256), 60).convert("RGB")
    for name in store.variants("segmentation"):
        model = segmentation.load(name)
        predict = functools.partial(model.predict, picture)
        flops, seconds = flops_of(predict), seconds_of(predict)
        rows.append(
            {
                "model": name,
                "parameters": f"{model.parameters / 1e6:.2f} M",
                "ms": 1000 * seconds,
                "GFLOP": flops / 1e9,
                "% of GEMM rate": 100 * flops / seconds / rate,
            }
        )
    if not rows:
        raise SystemExit("no weights of a segmenter are shipped yet")
    return {"rows": rows, "says": f"One picture of 256 × 256. A matrix product ran at {rate / 1e9:.0f} GFLOP/s."}


# ---- scaling ---------------------------------------------------------------------------------------------------------


def backbone(kind: str, side_px: int, attention: str) -> torch.nn.Module:
    """The Swin and the ViT of our segmenters, without their heads."""
    if kind == "Swin":
        keys = ("embed_dim", "depths", "num_heads", "window_size", "patch_size")
        return SwinModel(
            SwinConfig(image_size=side_px, **{key: SIZES["swin"][key] for key in keys}), add_pooling_layer=False
        )
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size")
    config = ViTConfig(image_size=side_px, **{key: SIZES["dpt"][key] for key in keys}, attn_implementation=attention)
    return ViTModel(config, add_pooling_layer=False)


@torch.no_grad()
def scaling() -> dict:
    rows = []
    for side in SIDES_PX:
        row = {"px": side}
        for kind in ("Swin", "ViT"):
            with torch.device("meta"):  # counted without being computed; eager, whose matrix products are all seen
                model, x = backbone(kind, side, "eager").eval(), torch.empty(1, 3, side, side)
                row[f"{kind} GFLOP"] = flops_of(lambda: model(x)) / 1e9  # noqa: B023
            model, x = backbone(kind, side, "sdpa").eval(), torch.randn(1, 3, side, side)
            row[f"{kind} ms"] = 1000 * seconds_of(lambda: model(x), 3)  # noqa: B023
        rows.append(row)
    log_pixels = np.log([side**2 for side in SIDES_PX])
    slopes = {}
    for kind in ("Swin", "ViT"):
        slope = np.diff(np.log([row[f"{kind} GFLOP"] for row in rows])) / np.diff(log_pixels)
        slopes[kind] = slope.round(3).tolist()
        for row, value in zip(rows, [None, *slope], strict=True):
            row[f"{kind} slope"] = "" if value is None else f"{value:.2f}"
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, unit in zip(figure.subplots(1, 2), ("GFLOP", "ms"), strict=True):
        for kind in ("Swin", "ViT"):
            axes.loglog(SIDES_PX, [row[f"{kind} {unit}"] for row in rows], "o-", label=kind)
        axes.set_xticks(SIDES_PX, [str(side) for side in SIDES_PX])
        axes.minorticks_off()
        axes.set(xlabel="side of the picture, px", ylabel=f"{unit} a picture")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(DOCS / "scaling.png", dpi=110)
    return {
        "rows": rows,
        "slopes": slopes,
        "says": f"Slope of FLOPs against pixels from one size to the next: Swin {min(slopes['Swin']):.2f} to "
        f"{max(slopes['Swin']):.2f}, ViT {slopes['ViT'][0]:.2f} growing to {slopes['ViT'][-1]:.2f}.",
    }


# ---- curves ----------------------------------------------------------------------------------------------------------


def curves() -> dict:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    seen, spent = figure.subplots(1, 2, sharey=True)
    rows = []
    for name in (name for name in store.variants("segmentation") if name.endswith("-scenes")):
        run = json.loads((store.bundled("segmentation")[name] / "run.json").read_text())
        points = run["history"]["validation/miou"]
        each, hours = run["images_seen"] / run["steps"], run["hours"] / run["steps"]
        steps, values = zip(*points, strict=True)
        seen.plot([step * each / 1000 for step in steps], values, "o-", label=name, markersize=3)
        spent.plot([step * hours for step in steps], values, "o-", label=name, markersize=3)
        rows.append({"model": name, "pictures": round(run["images_seen"]), "hours": run["hours"], "mIoU": values[-1]})
    if not rows:
        raise SystemExit("no segmenter trained on scenes is shipped yet")
    seen.set(xlabel="thousand pictures seen", ylabel="mIoU, validation scenes")
    spent.set(xlabel="hours")
    for axes in (seen, spent):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(DOCS / "segmentation-curves.png", dpi=110)
    return {"rows": rows, "says": "The last point of each curve."}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.segmentation", description=__doc__.split("\n")[0])
    parts = {"predict": predict, "scaling": scaling, "curves": curves}
    parser.add_argument("--part", choices=parts, action="append")
    for part in parser.parse_args(argv).part or parts:
        found = parts[part]()
        print(f"\n## segmentation: {part} ({torch.get_num_threads()} threads)\n")
        print(markdown(found["rows"]), f"\n{found['says']}", sep="\n", flush=True)
        write(f"segmentation-{part}", found)


if __name__ == "__main__":
    main()
