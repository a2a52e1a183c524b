"""What each way of pretraining is worth: `python -m benchmarks.towers NAME=FOLDER … [--write]`.

A row a tower, named as in the table: `lejepa=runs/lejepa/export`, or a bundled one (`labels=classifier/swin`). Its
features by k-NN and a linear probe, the tower fine-tuned with 20 labels a class (all as `training.evaluate pretrain
--labels_each 20` has them), then as the body of a segmenter and of a detector, both fine-tuned on painted scenes for
some 20 minutes of a core, the same steps for all. A row `random` for each architecture stands beside. What was measured
once stays in build/towers and is not measured again. --write puts the table into docs/RESULTS.md.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.table import write
from hub_models import store
from hub_models.documents import read_object
from training import results
from training.detection import evaluate_checkpoint as boxes_of
from training.pretrain import evaluate_checkpoint as features_of
from training.segmentation import evaluate_checkpoint as masks_of

HOME = Path(__file__).parent.parent / "build" / "towers"
LABELS = 20  # a class, for the fine-tuning with few
SETS = ("validation", "heldout_pairs", "unseen_style")
STEPS = {"segmentation": 1000, "detection": 1600}  # some 20 minutes of a core
PRESETS = {("segmentation", "swin"): "swin", ("segmentation", "vit"): "dpt", ("detection", "swin"): "emoji"}
SCORES = {"segmentation": "new_scenes/miou", "detection": "new_scenes/map"}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.towers", description=__doc__.split("\n")[0])
    parser.add_argument("towers", nargs="+", metavar="NAME=FOLDER", help="what it is called, and where it lies")
    parser.add_argument("--write", action="store_true", help="put the table into docs/RESULTS.md")
    args = parser.parse_args(argv)
    towers = [_named(given) for given in args.towers]
    rows, fresh = [], {}
    for name, folder in towers:
        kind = architecture(folder)
        own, random, baseline = of_features(name, folder)
        for stem in SCORES:
            own |= of_scenes(name, stem, kind, folder)
        rows.append({"tower": name, "architecture": kind} | own)
        fresh.setdefault(kind, random)
    for kind, random in fresh.items():
        for stem in SCORES:
            random |= of_scenes(f"random-{kind}", stem, kind, None)
        rows.append({"tower": "random", "architecture": kind} | random)
    told = {"steps": STEPS, "labels": LABELS, "rows": rows, "baseline": baseline}
    write("towers", told)
    if args.write:
        results.TOWERS.write_text(json.dumps(told, indent=1) + "\n")
        results.main([])


def _named(given: str) -> tuple[str, Path]:
    name, _, where = given.partition("=")
    if not where:
        raise SystemExit(f"{given}: say what it is called and where it lies, NAME=FOLDER")
    stem, _, variant = where.partition("/")
    folder = store.bundled(stem).get(variant, Path(where))
    if not (folder / "config.json").is_file():
        raise SystemExit(f"{folder} holds no config.json: name the folder that training.pretrain exported")
    return name, folder


def architecture(folder: Path) -> str:
    """ "swin" or "vit". Raises SystemExit for a tower of another kind."""
    kind = str(read_object(folder / "config.json").get("architecture", "")).split("_")[0]
    if kind not in ("swin", "vit"):
        raise SystemExit(f"{folder}: the table is of Swins and ViTs of timm, and this is {kind or 'no model of timm'}")
    return kind


def of_features(name: str, folder: Path) -> tuple[dict, dict, dict]:
    """Shares right of each set by each way: of the tower, of a fresh one of its kind, of HOG and colour."""
    kept = HOME / f"{name}-features.json"
    found = _kept(kept, folder)
    if found is None:
        measured = features_of(str(folder), "emoji", labels_each=[LABELS]).as_json()
        found = {"metrics": measured["metrics"], "baseline": measured["baseline"]}
        _keep(kept, folder, found)
    metrics = found["metrics"]
    ways = [f"{split}/{{}}{way}" for split in SETS for way in ("knn", "probe", f"few_{LABELS}")]
    return (
        {way.format(""): metrics[way.format("")] for way in ways},
        {way.format(""): metrics[way.format("random/")] for way in ways},
        {way.format(""): found["baseline"].get(way.format("")) for way in ways},
    )


def of_scenes(name: str, stem: str, kind: str, folder: Path | None) -> dict:
    """{stem: score on new scenes} after fine-tuning from a tower, or from nothing; {} where the script can't."""
    if (stem, kind) not in PRESETS:
        return {}
    kept, run = HOME / f"{name}-{stem}.json", HOME / f"{name}-{stem}"
    found = _kept(kept, folder)
    if found is None:
        began = time.perf_counter()
        command = [
            sys.executable, "-m", f"training.{stem}", "--preset", PRESETS[stem, kind], "--mixed_precision", "bf16",
            "--max_train_steps", str(STEPS[stem]), "--lr_warmup_steps", "100", "--ema_decay", "0.995",
            "--validation_steps", "100000", "--checkpointing_steps", "100000", "--output_dir", str(run),
            "--tower_name_or_path", str(folder) if folder else "None",
        ]  # fmt: skip
        subprocess.run(command, check=True)
        minutes = (time.perf_counter() - began) / 60
        measure = {"segmentation": masks_of, "detection": boxes_of}[stem]
        score = measure(str(run / "export"), "emoji").as_json()["metrics"][SCORES[stem]]
        found = {"score": score, "minutes": minutes}
        _keep(kept, folder, found)
    print(f"{name}: {stem} {found['score']:.3f} after {found['minutes']:.0f} minutes", flush=True)
    return {stem: found["score"]}


def _weights(folder: Path | None) -> str:
    return store.weights_sha256(folder) if folder else "random"


def _kept(path: Path, folder: Path | None) -> dict | None:
    """What was found of the same weights with the same steps before; None where nothing was."""
    found = read_object(path) if path.is_file() else {}
    return found if (found.get("weights"), found.get("steps")) == (_weights(folder), STEPS) else None


def _keep(path: Path, folder: Path | None, found: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"weights": _weights(folder), "steps": STEPS} | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
