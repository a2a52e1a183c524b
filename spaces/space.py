"""What a Space adds to a page: the models that its variables name, and ZeroGPU around whatever runs a model.

Lies beside app.py in a built Space, as `space`, and is imported first: on ZeroGPU the package `spaces` stands in for
CUDA from then on. Not a part of `apps`, which knows nothing of Spaces.
"""

import functools
import importlib.util
import inspect
import os
import re
import types

try:
    import spaces
except ImportError:  # everywhere but on a Space
    spaces = None

import gradio as gr

ZERO_GPU = hasattr(spaces, "GPU")  # a folder called spaces answers the import as well, and has none
HAS_MCP = importlib.util.find_spec("mcp") is not None  # the Hub installs it beside gradio


def models(default: list[str]) -> list[str]:
    """The models to serve: those of MODEL_REPO_ID, at MODEL_REVISION where they name no revision, else the default.

    MODEL_REPO_ID holds names as --model takes them, with spaces or commas between: org/repo, org/repo@revision, a
    bundled variant; in the gallery each after its demo, as in ddpm=org/repo.
    """
    named = re.split(r"[\s,]+", os.environ.get("MODEL_REPO_ID", "").strip(" \t\r\n,"))
    revision = os.environ.get("MODEL_REVISION", "").strip()
    if named == [""]:
        return default
    return [f"{name}@{revision}" if revision and "/" in name and "@" not in name else name for name in named]


def on_gpu(demo: gr.Blocks, seconds: int) -> gr.Blocks:
    """The app; on ZeroGPU each of its events that runs a model gets a GPU, for at most so many seconds a call.

    An event runs a model where it says with which others it takes turns: where it has a concurrency_id of its own, and
    not the number that gradio gives. Its arguments and results then travel between processes, so that a Stop, which is
    a flag in this one, is heard when the call has ended.
    """
    if ZERO_GPU:
        for event in demo.fns.values():
            if event.fn is not None and not event.concurrency_id.isdigit():
                event.fn = _without_targets(spaces.GPU(duration=seconds)(event.fn))
    return demo


def _without_targets(function):
    """The function, its events' data without the component they happened to: it cannot travel, nobody asks for it."""

    def bare(argument):
        if not isinstance(argument, gr.EventData):
            return argument
        said = (argument._data or {}) | vars(argument)
        return types.SimpleNamespace(**{name: value for name, value in said.items() if name not in ("target", "_data")})

    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def stream(*arguments):
            yield from function(*map(bare, arguments))

        return stream

    @functools.wraps(function)
    def call(*arguments):
        return function(*map(bare, arguments))

    return call
