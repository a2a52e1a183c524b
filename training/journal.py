"""What a run writes down of itself: metrics.jsonl, config.json, lines for a person, trackers, facts for its card.

All of it by the first process alone; the others keep silent.
"""

import dataclasses
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from training import checkpoint
from training.checkpoint import Checkpoint
from training.config import TrainConfig
from training.order import Order


@dataclass
class Progress:
    """How far a run is, as a checkpoint keeps it."""

    hardware: str  # what trained it, for the card
    step: int = 0  # optimiser steps that are done
    seconds: float = 0.0  # that they took, without evaluation and saving
    skipped: int = 0  # steps with a non-finite loss or gradient
    in_a_row: int = 0  # of them without a good one since
    window: list[dict[str, float]] = field(default_factory=list)  # each step's finite numbers since the last line
    forced: list[str] = field(default_factory=list)  # what changed on the way, by --force_resume

    def count(self, numbers: dict[str, float], seconds: float, *, skipped: bool) -> None:
        """One step more."""
        self.step, self.seconds = self.step + 1, self.seconds + seconds
        self.skipped, self.in_a_row = self.skipped + skipped, self.in_a_row + 1 if skipped else 0
        self.window.append({key: value for key, value in numbers.items() if math.isfinite(value)})

    def state(self) -> dict:
        """What a checkpoint's state.json holds of it; the step is in its manifest."""
        return {key: value for key, value in vars(self).items() if key != "step"}

    def resume(self, found: Checkpoint, forced: list[str], max_train_steps: int) -> None:
        """Be what it was when the checkpoint was saved."""
        if found.step >= max_train_steps:  # nothing left to train: what trained is what saved it
            self.hardware = found.state["hardware"]
        self.step, self.forced = found.step, found.state.get("forced", []) + forced
        for name in ("seconds", "skipped", "in_a_row", "window"):
            setattr(self, name, found.state[name])


class Journal:
    """The notes of one run, in its folder and on the terminal; nothing from any process but the first."""

    def __init__(self, run_dir: Path, cfg: TrainConfig, accelerator: Accelerator):
        self.run_dir, self.cfg, self.accelerator = run_dir, cfg, accelerator
        self.main, self.log = accelerator.is_main_process, run_dir / "metrics.jsonl"
        self.logged_step, self.logged_seconds = 0, 0.0  # at the last line of the training's numbers

    def say(self, text: str) -> None:
        """A line on the terminal, above the progress bar."""
        if self.main:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def begin(self, progress: Progress) -> None:
        """Drop what an abandoned continuation noted after this step, write config.json, start the trackers."""
        if self.main:
            old = self.log.read_text().splitlines() if progress.step and self.log.exists() else []
            kept = [line for line in old if _step_of(line) <= progress.step]
            checkpoint.write_atomically(self.log, "".join(line + "\n" for line in kept))
            self.run_dir.joinpath("config.json").write_text(json.dumps(dataclasses.asdict(self.cfg), indent=2) + "\n")
        self.logged_step, self.logged_seconds = progress.step, progress.seconds
        if self.cfg.tracker:
            fields = dataclasses.asdict(self.cfg)  # TensorBoard takes no tuples
            plain = {k: v if isinstance(v, int | float | str) else str(v) for k, v in fields.items()}
            self.accelerator.init_trackers("vitrail", plain)

    def end(self) -> None:
        if self.cfg.tracker:
            self.accelerator.end_training()

    def bar(self, progress: Progress) -> tqdm:
        """A progress bar over the steps, at the one that is done; on a terminal and in the first process."""
        most, silent = self.cfg.max_train_steps, not self.main or None
        return tqdm(total=most, initial=progress.step, unit="step", disable=silent, dynamic_ncols=True)

    def note(self, step: int, numbers: dict[str, float], *, show: bool = False) -> None:
        """A line of metrics.jsonl, for the trackers too, and with `show` for the terminal."""
        if not self.main:
            return
        with open(self.log, "a") as file:
            file.write(json.dumps({"step": step} | numbers) + "\n")
        if self.cfg.tracker:
            self.accelerator.log(numbers, step=step)
        if show:
            self.say(f"step {step}: " + ", ".join(f"{key} {value:.4g}" for key, value in numbers.items()))

    def note_training(self, progress: Progress, rates: dict[str, float], whole: int, bar: tqdm) -> None:
        """The means over the steps since the last such line, with the learning rates and the speed."""
        steps, seconds = progress.step - self.logged_step, progress.seconds - self.logged_seconds
        speed = steps * whole / max(seconds, 1e-9)
        keys = dict.fromkeys(key for numbers in progress.window for key in numbers)
        means = {key: float(np.mean([n[key] for n in progress.window if key in n])) for key in keys}
        now = {"skipped_steps": progress.skipped, "images_per_second": round(speed, 2)}
        now["seconds"] = round(progress.seconds, 1)
        self.note(progress.step, means | rates | now)
        bar.set_postfix_str(f"loss {means.get('loss', math.nan):.4f}, {speed:.1f} images/s")
        self.logged_step, self.logged_seconds, progress.window = progress.step, progress.seconds, []

    def facts(self, progress: Progress, order: Order) -> dict:
        """What a model card says about the run; numbers are those of this run so far."""
        return {
            "steps": progress.step,
            "images_seen": progress.step * order.whole,
            "hours": round(progress.seconds / 3600, 2),
            "hardware": progress.hardware,
            "seed": self.cfg.seed,
            "skipped_steps": progress.skipped,
            "changed_on_resume": progress.forced,
            "data_hash": order.samples.data_hash,
            "config": {
                key: value
                for key, value in dataclasses.asdict(self.cfg).items()
                if key not in ("output_dir", "resume_from_checkpoint", "force_resume")
            },  # not this machine's
            "history": history(self.log),
        }


def hardware_of(accelerator: Accelerator) -> str:
    """What trains, for the card: "2 × NVIDIA H200", "1 × CPU process, 2 threads"."""
    if accelerator.device.type == "cuda":
        return f"{accelerator.num_processes} × {torch.cuda.get_device_name()}"
    return f"{accelerator.num_processes} × CPU process, {torch.get_num_threads()} threads"


def history(log: Path, points: int = 200) -> dict[str, list[list[float]]]:
    """{"loss" and every validation score: [[step, value], …]} of a metrics.jsonl; the loss as means over spans."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    found = {"loss": [[row["step"], row["loss"]] for row in rows if "loss" in row and math.isfinite(row["loss"])]}
    span = -(-len(found["loss"]) // points) or 1
    parts = [found["loss"][at : at + span] for at in range(0, len(found["loss"]), span)]
    found["loss"] = [[part[-1][0], round(float(np.mean([value for _, value in part])), 6)] for part in parts]
    for row in rows:
        for key, value in row.items():
            if key.startswith("validation/"):
                found.setdefault(key, []).append([row["step"], round(value, 6)])
    return {key: value for key, value in found.items() if value}


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return math.inf  # a line cut in the middle by a kill
