"""Work done by several threads, its results handed out in the caller's: one thread at a time sees them."""

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_PATIENCE_SECONDS = 2.0


class _Failure:
    """What a thread could not do."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Done:
    """A thread has left."""


class Crew(Generic[_Item, _Result]):
    """Threads that share items. What they find, or `tell`, comes out of the iteration in the order that it came in."""

    def __init__(self, work: Callable[[_Item], _Result], items: Iterator[_Item], *, size: int) -> None:
        self._work, self._items = work, items
        self._lock = threading.Lock()
        self._out: SimpleQueue[_Result | _Failure | _Done] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"claude-pipeline-stream-{n}", daemon=True) for n in range(size)
        ]

    def tell(self, result: _Result) -> None:
        """Put something among the results, from any thread."""
        self._out.put(result)

    def __iter__(self) -> Iterator[_Result]:
        """Begin, and yield what comes until all items are done. Errors: the first of any thread."""
        for thread in self._threads:
            thread.start()
        left = len(self._threads)
        while left:
            match self._out.get():
                case _Done():
                    left -= 1
                case _Failure(error=error):
                    raise error
                case result:
                    yield result

    def join(self) -> None:
        """Wait a moment for the threads to leave; one that hangs in a connection leaves when that is lost."""
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_PATIENCE_SECONDS)

    def _run(self) -> None:
        try:
            while True:
                with self._lock:
                    item = next(self._items)
                self._out.put(self._work(item))
        except StopIteration:
            pass
        except BaseException as error:  # noqa: BLE001  it is raised where the results are handed out
            self._out.put(_Failure(error))
        finally:
            self._out.put(_Done())
