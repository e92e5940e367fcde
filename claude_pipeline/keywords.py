"""A keyword argument that a function does not take: named, with the nearest that it takes."""

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from typing import ParamSpec, TypeVar

_Takes = ParamSpec("_Takes")
_Returns = TypeVar("_Returns")


def nearest(name: object, known: Iterable[str]) -> str:
    """Ask whether the nearest known name is meant; empty if none is near."""
    found = get_close_matches(str(name), sorted(known), n=1, cutoff=0.5)
    return f" Did you mean {found[0]!r}?" if found else ""


def named(*more: str) -> Callable[[Callable[_Takes, _Returns]], Callable[_Takes, _Returns]]:
    """Make a function say which argument was meant, as Python does from 3.13 on; its signature stays.

    Args:
        more: What it takes besides, in a `**` argument that is not to be passed over.
    """

    def decorate(function: Callable[_Takes, _Returns]) -> Callable[_Takes, _Returns]:
        parameters = inspect.signature(function).parameters.values()
        known = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD} | {*more}

        @wraps(function)
        def call(*args: _Takes.args, **kwargs: _Takes.kwargs) -> _Returns:
            for name in kwargs.keys() - known:
                words = f"{function.__qualname__}() got an unexpected keyword argument {name!r}."
                raise TypeError(words + nearest(name, known - {"self"}))
            return function(*args, **kwargs)

        return call

    return decorate
