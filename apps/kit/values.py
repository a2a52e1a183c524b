"""Checks of what comes in as a parameter: each gives the value, or a sentence that names what can be asked for."""

import abc
import html
import math
import re
import secrets

import gradio as gr


class InputError(gr.Error):
    """A parameter that cannot be used, with the values that can. Is a ValueError."""

    def __init__(self, message: str):
        super().__init__(message, title="Input", print_exception=False)


def as_sent(*components: gr.components.Component) -> None:
    """Have the components' values reach the handler as they were sent, for `number` and the like to judge.

    gradio's own checks end in an error without a reason for most of what isn't of their type. They'd be made as well
    once an update of choices or bounds has overtaken what was sent: gradio then makes the component anew, of its class.
    """
    for component in components:
        component.__class__ = _unchecked(type(component))


def _unchecked(kind: type) -> type:
    """The class without its check. Made without gradio's metaclass, which would write a .pyi file beside its module."""
    if "unchecked" in vars(kind):
        return kind
    own = {"preprocess": lambda self, payload: payload, "unchecked": True, "__module__": kind.__module__}
    return abc.ABCMeta.__new__(type(kind), kind.__name__, (kind,), own)


def number(value, name: str, low: float, high: float, *, integer: bool = False) -> float | int:
    """The value, if it is a finite number in [low, high] (and whole, for `integer`).

    Raises:
        InputError: anything else; names the range.
    """
    kind = "a whole number" if integer else "a number"
    wanted = f"{name} must be {kind} from {low:g} to {high:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{wanted}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{wanted}, not {value}.")
    if integer and value != int(value):
        raise InputError(f"{wanted}, not {value:g}.")
    if not low <= value <= high:
        raise InputError(f"{wanted}, not {str(value)[:20]}.")
    return int(value) if integer else float(value)


def percent(value, name: str) -> float:
    """The value, if it is a number in [0, 100]. Raises InputError as `number`."""
    return number(value, f"{name}, in percent,", 0, 100)


def switch(value, name: str) -> bool:
    """The value, if it is true or false. Raises InputError for anything else."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false.")
    return value


def seed(value) -> int:
    """The seed to use, in [0, 2**63): a fresh one for None and -1, else the value reduced modulo 2**63.

    Show the returned one: it is what draws the same picture again.

    Raises:
        InputError: not a whole number.
    """
    if value is None or (value == -1 and not isinstance(value, bool)):
        return secrets.randbelow(2**31)
    whole = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value) and value == int(value))
    if isinstance(value, bool) or not whole:
        raise InputError("Seed must be a whole number, or -1 for a fresh one.")
    return int(value) % 2**63


def typed_seed(value) -> int:
    """`seed` of a number or of its text: a field of text keeps the digits that a browser's numbers round.

    Raises:
        InputError: not a whole number.
    """
    if isinstance(value, str):
        text = value.strip()
        value = int(text) if re.fullmatch(r"[+-]?[0-9]{1,40}", text) else None if not text else value
    return seed(value)


def choice(value, name: str, options) -> str:
    """The value, if it is one of the options.

    Raises:
        InputError: anything else; names the options.
    """
    options = [str(option) for option in options]
    if isinstance(value, str) and value in options:
        return value
    raise InputError(f"{name} must be one of: {', '.join(map(html.escape, options))}.")


class Models(dict):
    """The models of a page that are loaded, by their names."""

    @property
    def first(self):
        return next(iter(self.values()), None)

    def chosen(self, name):
        """The model of this name. Raises InputError, which names those there are."""
        return self[choice(name, "Model", self)]

    def several(self, names, one: str, all_: str) -> list[str]:
        """Those of these names, in the page's order; all for None. one, all_: what they are called.

        Raises InputError, which names those there are.
        """
        if names is None:
            return list(self)
        if not isinstance(names, list) or not names:
            raise InputError(f"{all_} must be a list of one or more of: {', '.join(map(html.escape, self))}.")
        wanted = {choice(name, one, self) for name in names}
        return [name for name in self if name in wanted]
