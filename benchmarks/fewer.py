"""What fewer photographs of each kind give: `python -m benchmarks.fewer [--pictures 5 20] [--write]`.

The README's command for classes of photographs, from the shipped `classifier/photo`, on the first so many training
photographs of each of the ten clothes, in the order of the hashes of their names. Each run is measured as it goes on,
on all validation photographs; its last figure stands, none is chosen. Beside them the shipped worked example, which
saw all of them, by its card's figures. --write puts the table into README.md.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.table import markdown, write
from hub_models import store
from training import results

DATA = results.ROOT / "build" / "data" / "clothing-10"
START, END = "<!-- fewer:start -->", "<!-- fewer:end -->"
STEPS, LOOKED_AT, BATCH = 120, 30, 16
FLAGS = (
    "--preset finetune --pretrained_model_name_or_path photo --resolution 224 --learning_rate 5e-4 --layer_decay 0.8 "
    "--scale 0.5 1.0 --random_flip --ema_decay 0.95 --lr_warmup_steps 10 --dataloader_num_workers 0"
)


def subset(data: Path, pictures: int, folder: Path) -> int:
    """A folder with so many training photographs of each class and all validation ones; how many it trains on."""
    count = 0
    for kind in sorted(path for path in (data / "train").iterdir() if path.is_dir()):
        names = sorted(kind.iterdir(), key=lambda path: hashlib.sha256(path.name.encode()).digest())[:pictures]
        (folder / "train" / kind.name).mkdir(parents=True)
        for path in names:
            shutil.copy(path, folder / "train" / kind.name / path.name)
        count += len(names)
    shutil.copytree(data / "validation", folder / "validation")
    return count


def train(folder: Path, run: Path, steps: int) -> list[tuple[int, float]]:
    """[(step, share of the validation photographs that is right)] of a run. Raises SystemExit where it fails."""
    command = [
        sys.executable, "-m", "training.classifier", *FLAGS.split(), "--dataset_name", str(folder), "--output_dir",
        str(run), "--train_batch_size", str(BATCH), "--max_train_steps", str(steps), "--validation_steps",
        str(min(LOOKED_AT, steps)), "--checkpointing_steps", str(steps),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}")
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["validation/top1"]) for line in logged if line["step"] and "validation/top1" in line]


def row(pictures: str, count: int, steps: str, curve: Sequence[float]) -> dict:
    *before, last = curve
    way = ", ".join(f"{100 * share:.1f}" for share in before) or "–"
    return {
        "photographs of each": pictures, "in all": count, "steps": steps, "on the way, %": way, "right, %": 100 * last,
    }  # fmt: skip


def shipped() -> dict:
    """The row of classifier/clothing, which saw all of them, as its run.json and results.json have it."""
    folder = store.WEIGHTS / "classifier" / "clothing"
    run, found = (json.loads((folder / name).read_text()) for name in ("run.json", "results.json"))
    counts = [len(list(kind.iterdir())) for kind in (DATA / "train").iterdir() if kind.is_dir()]
    steps = f"{run['steps']} of {run['images_seen'] // run['steps']}"
    return row(f"{min(counts)} to {max(counts)}", sum(counts), steps, [found["metrics"]["validation/top1"]])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.fewer", description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, nargs="+", default=[5, 20], help="of each class, a run for each")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each run")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    args = parser.parse_args(argv)
    if not DATA.is_dir():
        raise SystemExit(f"{DATA.relative_to(results.ROOT)} is missing: training/data/cards/clothing-10.md says whence")
    rows = []
    with tempfile.TemporaryDirectory() as elsewhere:
        for pictures in args.pictures:
            folder, run = Path(elsewhere) / str(pictures), Path(elsewhere) / f"{pictures}-run"
            count = subset(DATA, pictures, folder)
            curve = train(folder, run, args.steps)
            rows.append(row(str(pictures), count, f"{args.steps} of {BATCH}", [share for _, share in curve]))
            print(markdown(rows[-1:]), flush=True)
    rows.append(shipped())
    write("fewer", {"rows": rows})
    table = markdown(rows)
    print(f"\n{table}")
    if args.write:
        readme = results.ROOT / "README.md"
        readme.write_text(results.with_block(readme.read_text(), f"\n{table}\n", START, END))


if __name__ == "__main__":
    main()
