"""How events are wired: handlers return {component: value}, and what runs a model takes turns in one of two lanes."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, MethodType

import gradio as gr

from apps.kit import values, visitors
from apps.kit.session import StopFlags

LOOK, DRAW = "look", "draw"  # the lanes of all pages together: short looks at a picture don't wait for drawings
HIDDEN: dict = {"show_progress": "hidden", "api_visibility": "private"}  # of events that are the page's own
AT_ONCE: dict = {"queue": False} | HIDDEN  # of those that run no model


def turns(lane: str) -> dict:
    """Of all that runs a model, for people and for programs: one at a time in a lane, and on ZeroGPU on the GPU."""
    return {"concurrency_id": lane, "concurrency_limit": 1}


def quiet(lane: str) -> dict:
    """Of a page's own events that run a model."""
    return turns(lane) | HIDDEN


def latest(lane: str) -> dict:
    """The same for sliders and fields: of those that come meanwhile the last alone is looked at."""
    return {"trigger_mode": "always_last"} | quiet(lane)


def wire(trigger, handler: Callable, inputs=None, outputs=None, **how):
    """The event that runs the handler, at once upon any trigger: `box.change`, `begun.then`, or a list of the former.

    The handler returns or yields {component: value} of some of the outputs; the others stay as they are.
    """
    listed = [outputs] if isinstance(outputs, gr.components.Component) else list(outputs or ())
    start = functools.partial(gr.on, trigger) if isinstance(trigger, list) else trigger
    return start(_by_place(handler, listed), inputs, listed, **how)


def _by_place(handler: Callable, outputs: Sequence):
    """The handler, with values in the order of the outputs: components cannot travel to the process of a GPU."""

    def placed(said: dict | None):
        if not outputs:
            return None
        said = said or {}
        assert set(said) <= set(outputs), f"{handler} answers for what it was not wired to"
        values = [said.get(component, gr.skip()) for component in outputs]
        return values if len(outputs) > 1 else values[0]

    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def stream(*arguments):
            for said in handler(*arguments):
                yield placed(said)

        return stream

    @functools.wraps(handler)
    def call(*arguments):
        return placed(handler(*arguments))

    return call


def fitted(form, own: Mapping[str, Mapping]) -> dict:
    """{component: update} of the form's fields of these names, to what `own` has for each."""
    return {getattr(form, name): gr.update(**field) for name, field in own.items()}


def endpoint(lane: str, function: FunctionType | MethodType, inputs, outputs, **how) -> None:
    """The function as an endpoint for programs under its own name, with its docstring and its parameters.

    What programs send in the place of fields reaches it as it is, for `values` to judge in a sentence.
    """
    listed = inputs if isinstance(inputs, list) else [inputs]
    values.as_sent(*(one for one in listed if not isinstance(one, gr.Image | gr.State)))
    gr.Button(visible=False).click(function, inputs, outputs, api_name=function.__name__, **(how or turns(lane)))


def halting(demo: gr.Blocks, flags: StopFlags) -> Callable:
    """Has a closed tab set the flag of its session and give up its turns; gives the handler, for a Stop button too."""

    def halt(request: gr.Request):
        flags.set(request.session_hash)
        visitors.give_up(request.session_hash)

    demo.unload(halt)
    return halt
