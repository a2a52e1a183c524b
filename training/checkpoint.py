"""Checkpoints that are either complete or absent.

A checkpoint is a folder of safetensors files, `state.json` and `manifest.json`. It is written under a temporary
name, flushed to disk, its manifest (step, sha256 and size of every file) last, and only then renamed into place;
older ones are deleted after that. Whatever moment the process dies at, the newest folder whose manifest verifies is
a complete checkpoint. Nothing in it is pickled.
"""

import hashlib
import json
import math
import os
import re
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from training import machine

MANIFEST = "manifest.json"
NAME = re.compile(r"checkpoint-(\d+)")


class RunError(RuntimeError):
    """A run can't start, save or resume; the message says why and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint folder: `tensors(name)` gives a {key: tensor} dict, `state` what was saved beside."""

    path: Path
    step: int
    state: dict

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Raises RunError where the run that saved it had no such tensors."""
        file = self.path / f"{name}.safetensors"
        if not file.is_file():
            raise RunError(f"{self.path.name} holds no {file.name}: what trained then was another team of players")
        return load_file(file)


@contextmanager
def locked(run_dir: Path):
    """Hold the run folder for this process, or raise RunError if another one holds it.

    The lock vanishes with the process, however it ends: see `machine.locked`.
    """
    with ExitStack() as stack:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(machine.locked(run_dir / "lock", wait=False))
        except machine.HeldElsewhere:
            raise RunError(f"another run is writing to {run_dir}: stop it or choose another --output_dir") from None
        except OSError as error:
            raise RunError(f"{run_dir} can't be written: {error.strerror}; choose another --output_dir") from None
        yield


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Put `text` at `path` so that a reader sees the old content or the new one, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def save(run_dir: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]], state: dict, *, keep: int) -> Path:
    """Write `checkpoint-<step>` and delete all but the `keep` newest up to it; returns its folder.

    Later ones go too: they are damaged, or of a continuation that was left when an older one was resumed.
    tensors: one safetensors file per entry, {file stem: {key: tensor}}; state: JSON-serialisable.
    Raises RunError when the disk has less than twice the room it takes, or a write fails; older checkpoints stay.
    """
    final = run_dir / f"checkpoint-{step}"
    size_bytes = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
    free_bytes = shutil.disk_usage(run_dir).free
    if free_bytes < 2 * size_bytes:
        raise RunError(
            f"{run_dir} has {math.floor(free_bytes / 2**20 * 10) / 10:,} MiB free, a checkpoint needs "
            f"{math.ceil(2 * size_bytes / 2**20 * 10) / 10:,} MiB: "
            "free some room and resume with --resume_from_checkpoint latest; older checkpoints are untouched"
        )
    temporary = run_dir / f"checkpoint-{step}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        for name, group in tensors.items():
            save_file(
                {key: t.detach().cpu().contiguous() for key, t in group.items()}, temporary / f"{name}.safetensors"
            )
        (temporary / "state.json").write_text(json.dumps(state))
        files = {}
        for path in sorted(temporary.iterdir()):
            os.chmod(path, 0o644)
            machine.flush(path)
            files[path.name] = {"sha256": sha256_of(path), "size": path.stat().st_size}
        write_atomically(temporary / MANIFEST, json.dumps({"step": step, "files": files}, indent=1))
        machine.flush(temporary)
        if final.exists():
            shutil.rmtree(final)
        os.rename(temporary, final)
        machine.flush(run_dir)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error  # a SafetensorError has its reason in its text
        raise RunError(
            f"could not save {final}: {reason}; older checkpoints are untouched. Free some room or fix the folder, "
            "then resume with --resume_from_checkpoint latest"
        ) from error
    others = found(run_dir)
    kept = [path for number, path in others if number <= step][-keep:]
    leftovers = run_dir.glob("checkpoint-*.tmp")  # of saves that were killed
    for path in [*(path for _, path in others if path not in kept), *leftovers]:
        shutil.rmtree(path, ignore_errors=True)
    return final


def found(run_dir: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every checkpoint in a run folder, oldest first, unverified; leftovers are not listed."""
    if not run_dir.is_dir():
        return []
    matches = ((NAME.fullmatch(path.name), path) for path in run_dir.iterdir() if path.is_dir())
    return sorted((int(match.group(1)), path) for match, path in matches if match)


def problem_of(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None: manifest missing, file missing, size or sha256 different."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if path.name != f"checkpoint-{manifest['step']}":
            return f"its manifest says step {manifest['step']}"
        files = {name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "its manifest is missing or unreadable"
    if "state.json" not in files:
        return "its manifest does not list state.json"
    for name, (size, sha256) in files.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
        if sha256_of(file) != sha256:
            return f"{name} has changed since it was written (sha256 differs)"
    return None


def find(run_dir: Path, which: str, *, say=print) -> Checkpoint | None:
    """The checkpoint to resume from. "latest" = the newest that verifies (None if there is none), else that folder.

    Damaged ones are named through `say` and passed over. Raises RunError for a named folder that is absent or damaged,
    and when there are checkpoints but all of them are damaged.
    """
    if which != "latest":
        path = Path(which) if Path(which).is_dir() else run_dir / which
        reason = problem_of(path) if path.is_dir() else "there is no such folder"
        if reason:
            raise RunError(f"can't resume from {which}: {reason}; use --resume_from_checkpoint latest")
        return _open(path)
    candidates = found(run_dir)
    for _, path in reversed(candidates):
        reason = problem_of(path)
        if reason is None:
            return _open(path)
        say(f"{path.name} is damaged: {reason}; trying the one before")
    if candidates:
        raise RunError(f"every checkpoint in {run_dir} is damaged: delete them to start from scratch")
    return None


def _open(path: Path) -> Checkpoint:
    manifest = json.loads((path / MANIFEST).read_text())
    return Checkpoint(path=path, step=manifest["step"], state=json.loads((path / "state.json").read_text()))


# --- AdamW's state as tensors, so that it can live in a safetensors file -------------------------------------------


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """{"<parameter number>.<quantity>": tensor} of an optimiser whose state holds tensors only, as AdamW's does."""
    return {
        f"{number}.{quantity}": value
        for number, entry in optimizer.state_dict()["state"].items()
        for quantity, value in entry.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Undo `optimizer_tensors` in place; learning rates and other settings stay as the optimiser has them."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        number, quantity = key.split(".", 1)
        state.setdefault(int(number), {})[quantity] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
