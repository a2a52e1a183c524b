"""What a command says to a person: a first word at once, and an expected error as one sentence, without a traceback.

The packages training, apps and benchmarks call `opening` as they are imported, and it acts for `python -m` alone.
"""

import errno
import os
import sys
import traceback

OURS = {"__main__", "apps", "benchmarks", "hub_models", "spaces", "training"}  # whose errors are sentences already
EXTRA = {"accelerate", "datasets", "peft", "tensorboard", "tyro"}  # what the extra `train` brings


def opening(name: str | None = None) -> None:
    """Say what is being started, before its libraries are imported, which takes many seconds; and how errors end it.

    Without a name: that of `python -m package.module`, if this process is one that is just looking for its module, as
    sys.argv tells then; else nothing happens. Said in the first process of a run only, on stderr.
    """
    if name is None and sys.argv[:1] == ["-m"] and "-m" in sys.orig_argv[:-1]:
        name = sys.orig_argv[sys.orig_argv.index("-m") + 1]
    if name:
        sys.excepthook = end
        if os.environ.get("RANK", "0") == "0":
            print(f"{name}: opening its libraries …", file=sys.stderr, flush=True)


def end(kind: type[BaseException], error: BaseException, trace) -> None:
    """The last words of a command (as sys.excepthook): `sentence`, or the traceback of what nobody expected."""
    if isinstance(error, KeyboardInterrupt):
        print("stopped by ctrl-c", file=sys.stderr)
    elif said := sentence(error):
        print(f"error: {said}", file=sys.stderr)
    else:
        traceback.print_exception(kind, error, trace)


def sentence(error: BaseException) -> str | None:
    """What an expected error says to a person; None of one that isn't expected, whose traceback is wanted.

    Expected are errors of this project's own classes, those of the disk, a package that isn't installed, and too
    little memory of a GPU.
    """
    if type(error).__module__.partition(".")[0] in OURS:
        return " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}; {'free' if error.errno == errno.ENOSPC else 'mend'} that and repeat it"
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] not in OURS:
        package = error.name.partition(".")[0]
        how = "install vitrail with its extra, [train]" if package in EXTRA else f"pip install {package}"
        return f"the package {package} is not installed: {how}"
    if type(error).__name__ == "OutOfMemoryError":
        return "the GPU has too little memory for this: lower --train_batch_size and raise " \
            "--gradient_accumulation_steps as much, or lower --resolution"  # fmt: skip
    return None
