"""What Linux, macOS and Windows have each in their own way: locks, the memory of a process, a flush to the disk."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import filelock

try:
    import fcntl
    import resource
except ImportError:  # on Windows
    fcntl = resource = None


class HeldElsewhere(OSError):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, *, wait: bool) -> Generator[None]:
    """Hold a lock on this file for the time of the block; without `wait` HeldElsewhere where another process has it.

    It belongs to this process alone and vanishes with it, however that ends: data loading processes, which outlive a
    killed parent by seconds, don't inherit a lock of this kind (lockf; they would one of flock). Raises OSError.
    """
    if fcntl is None:
        try:
            with filelock.FileLock(path.with_name(path.name + ".held"), timeout=-1 if wait else 0):
                yield
        except filelock.Timeout as error:
            raise HeldElsewhere(str(error)) from None
        return
    with open(path, "w") as handle:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            raise HeldElsewhere(str(error)) from None
        yield


def peak_memory() -> int:
    """The most bytes that this process had in memory so far."""
    if resource is None:
        import psutil  # on Linux it needs resource itself

        used = psutil.Process().memory_info()
        return getattr(used, "peak_wset", used.rss)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def flush(path: Path) -> None:
    """Have the disk hold what a file or folder holds. (Windows flushes what is open for writing, and no folders.)"""
    windows = os.name == "nt"
    if windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
