"""What a Space adds to a page: the models that its variables name, and ZeroGPU around whatever runs a model.

Lies beside app.py in a built Space, as `space`, and is imported first: on ZeroGPU the package `spaces` stands in for
CUDA from then on. Not a part of `apps`, which knows nothing of Spaces.
"""

import functools
import importlib.util
import inspect
import math
import os
import re
import types

try:
    import spaces
except ImportError:  # everywhere but on a Space
    spaces = None

import gradio as gr

from apps.kit import wires

SHORTEST = 10  # seconds of GPU that any call asks for
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
    not the number that gradio gives. Its arguments and results then travel between processes.
    seconds: of the largest order; smaller ones ask for less, and so wait less and take less of a visitor's quota.
    """
    if ZERO_GPU:
        for event in demo.fns.values():
            if event.fn is not None and not event.concurrency_id.isdigit():
                event.fn = _without_targets(spaces.GPU(duration=duration(event, seconds))(event.fn))
    return demo


def duration(event, seconds: int):
    """How long a call of this event may take, as `spaces.GPU` wants it: seconds, or a function of its arguments.

    An order's time is in proportion to its steps and pictures; a look at a picture is short.
    """
    if event.concurrency_id == wires.LOOK:
        return min(SHORTEST, seconds)
    places = {getattr(field, "label", None): place for place, field in enumerate(event.inputs)}
    sizes = [(places[name], event.inputs[places[name]].maximum) for name in ("Steps", "Pictures") if name in places]

    def of(*arguments):
        given = [value for value in arguments if not isinstance(value, gr.Request)]
        asked = [(given[place], most) for place, most in sizes]
        shares = [min(1.0, max(0.0, value / most)) for value, most in asked if isinstance(value, int | float)]
        return max(min(SHORTEST, seconds), math.ceil(seconds * math.prod(shares)))

    return of if sizes else seconds


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
