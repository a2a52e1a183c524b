"""Trainings that are killed at random moments, saves among them: `python -m benchmarks.kills [--kills 200]`.

Each script trains its `tiny` preset with a checkpoint after every step, undisturbed and then killed (SIGKILL) again
and again and resumed, until it is done; the exported weights must be the same to the bit. Half of the moments are drawn
from all of a run, half from just after a save has begun. Processes come from a fork server that holds the imports, so
most of a run's time is training, saving and exporting.
"""

import argparse
import hashlib
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.table import markdown, write
from training.evaluate import STEMS

STEPS = 6
LONGEST_S = 600


def command(stem: str, folder: Path, clip: Path | None) -> list[str]:
    own = {"captioning": ["--clip_name_or_path", str(clip)]}.get(stem, [])
    return ["--preset", "tiny", "--output_dir", str(folder), "--max_train_steps", str(STEPS), "--cpu", *own]


def train(stem: str, argv: list[str], log: Path) -> None:
    """What the process does; what it prints goes to the log."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import_module(f"training.{stem}").main(argv)
    sys.stdout.flush()


def start(stem: str, argv: list[str], log: Path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"training.{name}" for name in STEMS])
    process = context.Process(target=train, args=(stem, argv, log))
    process.start()
    return process


def whole(stem: str, argv: list[str], log: Path) -> float:
    """Seconds of a training that nobody disturbs. Raises SystemExit where it fails."""
    began = time.perf_counter()
    process = start(stem, argv, log)
    process.join(LONGEST_S)
    if process.exitcode != 0:
        raise SystemExit(f"{stem} ended with {process.exitcode}:\n{log.read_text()[-2000:]}")
    return time.perf_counter() - began


def weights(folder: Path) -> dict[str, str]:
    """{file: sha256} of all weights of an export."""
    files = sorted((folder / "export").rglob("*.safetensors"))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def killed(stem: str, argv: list[str], folder: Path, log: Path, seconds: float, draw: random.Random) -> str | None:
    """Where a run was when it was killed, "saving", "exporting", "training" or "starting"; None where it was faster."""
    process = start(stem, argv, log)
    until, saving = time.monotonic() + draw.uniform(0, 0.9 * seconds), draw.random() < 0.5
    while process.is_alive() and time.monotonic() < until:
        if saving and any(folder.glob("*.tmp*")):
            time.sleep(draw.uniform(0, 0.01))
            break
        time.sleep(0.001)
    if not process.is_alive():
        return None
    where = "saving" if any(folder.glob("*.tmp*")) else "training" if any(folder.glob("checkpoint-*")) else "starting"
    process.kill()
    process.join()
    return where


def survive(stem: str, home: Path, kills: int, clip: Path | None, draw: random.Random) -> dict:
    """A row of the table. Raises SystemExit where the weights differ, or a resume fails."""
    reference = home / f"{stem}-reference"
    seconds = whole(stem, command(stem, reference, clip), home / "log")
    row, run = {"script": stem, "kills": 0, "while saving": 0, "runs ended": 0, "other weights": 0}, 0
    while row["kills"] < kills:
        folder, log = home / f"{stem}-{run}", home / f"{stem}-{run}.log"
        run += 1
        argv, patience = command(stem, folder, clip), draw.randint(1, 6)
        resume = [*argv, "--resume_from_checkpoint", "latest"]
        for _ in range(patience):
            begun = any(folder.glob("checkpoint-*"))
            where = killed(stem, resume if begun else argv, folder, log, seconds, draw)
            row["kills"] += where is not None
            row["while saving"] += where == "saving"
            if where is None:
                break
        if not (folder / "export").is_dir() or not weights(folder):
            whole(stem, resume if any(folder.glob("checkpoint-*")) else argv, log)
        row["runs ended"] += 1
        row["other weights"] += weights(folder) != weights(reference)
    return row


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.kills", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="of all scripts together, at least")
    parser.add_argument("--stem", choices=STEMS, action="append")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    stems, draw, rows = args.stem or STEMS, random.Random(args.seed), []
    with tempfile.TemporaryDirectory() as elsewhere:
        home = Path(elsewhere)
        os.environ["VITRAIL_CACHE"] = str(home / "cache")
        clip = None
        if "captioning" in stems:
            whole("clip", command("clip", home / "clip", None), home / "log")
            clip = home / "clip" / "export"
        for stem in stems:
            rows.append(survive(stem, home, -(-args.kills // len(stems)), clip, draw))
            print(markdown(rows[-1:]), flush=True)
    write("kills", {"rows": rows})
    print(f"\n{markdown(rows)}")
    if any(row["other weights"] for row in rows):
        raise SystemExit("a training that was killed and resumed has other weights than one that was not")


if __name__ == "__main__":
    main()
