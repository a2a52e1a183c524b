"""Real processes for tests, without paying for `import torch` in each: a fork server holds the imports.

A child can be killed, signalled and starved of disk like any process, and nothing it does reaches the tests' own.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from ports import free_port

from training.evaluate import STEMS

PRELOAD = ["pytest", "datasets", "matplotlib.figure", "sklearn.mixture", "training.evaluate"]
PRELOAD += [f"training.{stem}" for stem in STEMS]


@contextmanager
def start(
    function: Callable, *args, log: Path, environment: dict[str, str] | None = None
) -> Iterator[multiprocessing.Process]:
    """A process that runs function(*args) (of a module's top level), stdout and stderr going to `log`.

    environment: variables to set in it.
    What is left of it and of its own children when the block ends is killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)  # without effect once the server runs; modules not there are passed over
    process = context.Process(target=_into, args=(log, multiprocessing.get_start_method(), environment, function, args))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()


def run(function: Callable, *args, log: Path, timeout_s: float = 300) -> tuple[int, str]:
    """(exit code, what it printed) of a process that runs function(*args); a signal's number is negative."""
    with start(function, *args, log=log) as process:
        process.join(timeout_s)
        if process.exitcode is None:
            raise TimeoutError(f"still running after {timeout_s} s; so far: {log.read_text()[-2000:]}")
    return process.exitcode, log.read_text() if log.exists() else ""


@contextmanager
def ranks(world: int, function: Callable, *args, log: Path) -> Iterator[list[multiprocessing.Process]]:
    """So many processes that run function(*args) as `torchrun` would start them; rank r writes to <log>.<r>."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                start(function, *args, log=Path(f"{log}.{rank}"),
                      environment=shared | {"LOCAL_WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank)})
            )
            for rank in range(world)
        ]  # fmt: skip


def _into(log: Path, start_method: str, environment: dict | None, function: Callable, args: tuple) -> None:
    os.setsid()
    os.environ.update(environment or {})
    torch.set_num_threads(1)  # the models are tiny, and more threads only wait for each other
    multiprocessing.set_start_method(start_method, force=True)  # a child of a fork server would ask it for loaders, too
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = open(1, "w", buffering=1, closefd=False), open(2, "w", buffering=1, closefd=False)
    function(*args)
