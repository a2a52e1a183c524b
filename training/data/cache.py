"""What is made once from data and weights, and kept in build/cache (or $VITRAIL_CACHE) under a hash of both."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path

from hub_models import store
from training import machine
from training.checkpoint import RunError, sha256_of, write_atomically
from training.data.split import ROOT

FORMAT = 1  # of the files in the cache; another number, and all are made anew


def root() -> Path:
    return Path(os.environ.get("VITRAIL_CACHE") or ROOT / "build" / "cache")


def cached(kind: str, key: dict, build: Callable[[Path], None]) -> Path:
    """A folder that `build` has filled for this key: found, or made now. Its files are checked by size and sha256.

    What is damaged or was left half written is made anew. Two processes that want the same wait for each other.
    Raises RunError where the cache can't be written.
    """
    name = hashlib.sha256(json.dumps([FORMAT, kind, key], sort_keys=True).encode()).hexdigest()[:20]
    folder = root() / f"{kind}-{name}"
    with _waiting(folder.with_suffix(".lock")):
        if folder.is_dir():
            reason = damage(folder)
            if reason is None:
                return folder
            print(f"the cached {kind} are damaged ({reason}): making them anew", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        temporary = folder.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        build(temporary)
        files = {p.name: {"size": p.stat().st_size, "sha256": sha256_of(p)} for p in sorted(temporary.iterdir())}
        write_atomically(temporary / "manifest.json", json.dumps({"key": key, "files": files}, indent=1))
        temporary.rename(folder)
    return folder


def damage(folder: Path) -> str | None:
    """What is wrong with a folder of the cache; None if nothing."""
    try:
        files = json.loads((folder / "manifest.json").read_text())["files"]
        for name, said in files.items():
            if (folder / name).stat().st_size != said["size"]:
                return f"{name} has another size"
            if sha256_of(folder / name) != said["sha256"]:
                return f"{name} has changed"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {store.one_line(error)}"
    return None if files else "it lists no files"


@contextlib.contextmanager
def _waiting(path: Path) -> Generator[None]:
    """Hold a lock that other processes wait for."""
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(machine.locked(path, wait=True))
        except OSError as error:
            said = f"{path.parent} can't be written ({error.strerror}): set VITRAIL_CACHE, or --no_cache"
            raise RunError(said) from None
        yield
