"""What a DataFrame can do under its name `claude`: nothing but the public functions, with the frame as their source."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from claude_pipeline.estimating import estimate
from claude_pipeline.sources import Source
from claude_pipeline.streaming import stream
from claude_pipeline.submitting import submit

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _of_frame(function: Callable[Concatenate[Source, _P], _R]) -> Callable[Concatenate["Claude", _P], _R]:
    @wraps(function)
    def forward(claude: "Claude", /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return function(claude._frame, *args, **kwargs)  # noqa: SLF001  the method is its own

    return forward


class Claude:
    """Ask Claude about every row of this frame: `batch` is `cp.submit`, `stream` and `estimate` are named alike."""

    def __init__(self, frame: Source) -> None:
        self._frame = frame

    batch = _of_frame(submit)
    stream = _of_frame(stream)
    estimate = _of_frame(estimate)
