"""A function mapped over items, here, by processes of this machine or by Dask: what was done and what failed, as it gets done.

Items are taken one by one as workers get free, so a million of them never become a million tasks at once.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from skysense_cli import console
from skysense_cli.data.workers import Died, Workers
from skysense_cli.errors import DataError, SkySenseError, SourceError

AHEAD = 3  # tasks that the scheduler knows for each thread of its workers: one runs, the others wait for it

Given = TypeVar("Given")
Result = TypeVar("Result")


def run(function: Callable[[Given], Result], items: Iterable[Given], *, name: Callable[[Given], str], total: int, workers: int = 1,
        address: str | None = None) -> Iterator[tuple[Given, Result | SkySenseError]]:  # fmt: skip
    """(item, `function` of it) as they get done; an item that fails with a SkySenseError gives the error, reported by its name.

    total: number of items      workers: processes on this machine; 1 runs here
    address: of a running Dask scheduler instead, e.g. tcp://host:8786
    An item whose worker dies is tried by others and then fails too. Raises SourceError when the scheduler does not
    answer, is lost or has unfit workers. Any other exception is a bug and ends the run.
    """
    with _mapped(_Guarded(function), items, name, min(workers, total), address) as results:
        for item, result in console.progress(results, "blocks", total=total):
            if isinstance(result, SkySenseError):
                console.warn(f"{name(item)}: {result}")
            yield item, result


@contextlib.contextmanager
def _mapped(task: Callable[[Any], Any], items: Iterable[Any], name: Callable[[Any], str], workers: int,
            address: str | None) -> Iterator[Iterator[tuple[Any, Any]]]:  # fmt: skip
    """(item, result) as they get done. Workers are there before anything is shown: a progress bar has a thread, which a fork lacks."""
    if address is not None:
        yield _elsewhere(task, iter(items), name, address)
    elif workers <= 1:
        yield ((item, task(item)) for item in items)
    else:
        with Workers(task, workers) as pool:
            yield ((item, _failed(result) if isinstance(result, Died) else result) for item, result in pool.map(iter(items)))


def _failed(error: Exception) -> DataError:
    return DataError(f"{error}; do they have memory enough?")


def _elsewhere(task: Callable[[Any], Any], items: Iterator[Any], name: Callable[[Any], str], address: str) -> Iterator[tuple[Any, Any]]:
    first = next(items, None)
    if first is not None:
        with contextlib.closing(_connected(address)) as client:
            yield from _in_window(client, _Elsewhere(task, Path.cwd()), itertools.chain([first], items), name)


def _in_window(client: Any, task: Callable[[Any], Any], items: Iterator[Any], name: Callable[[Any], str]) -> Iterator[tuple[Any, Any]]:
    """(item, result), while the scheduler knows AHEAD tasks for each of its threads; a finished one makes room for the next."""
    from distributed import KilledWorker, as_completed
    from distributed.client import CancelledError

    given: dict[Any, Any] = {}
    done = as_completed([])

    def fill() -> None:
        room = AHEAD * max(sum(client.nthreads().values()), 1) - len(given)
        for item in itertools.islice(items, max(room, 0)):
            future = client.submit(task, item, pure=False, retries=0)
            given[future] = item
            done.add(future)

    fill()
    while given:
        future = next(done)
        item = given.pop(future)
        try:
            result = future.result()
        except KilledWorker as error:
            result = _failed(Died(f"{error.allowed_failures + 1} workers died over it"))
        except CancelledError as error:
            raise SourceError(f"the Dask scheduler was lost or gave up {name(item)}; the same command goes on from here") from error
        except ImportError as error:
            raise SourceError(f"a Dask worker cannot run this ({error}); install the same skysense-cli on every worker") from error
        fill()
        yield item, result


def _connected(address: str) -> Any:
    from distributed import Client  # a second of import that a run in this process does without

    try:
        client = Client(address)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(f"--cluster {address}: no Dask scheduler answers ({reason[:120]})") from error
    if not client.nthreads():
        console.warn(f"--cluster {address}: has no workers yet; waiting for the first")
    return client


class _Guarded:
    """Gives a SkySenseError back instead of raising it, so that one item does not end the others."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, item: Any) -> Any:
        try:
            return self.function(item)
        except SkySenseError as error:
            return error


class _Elsewhere:
    """A task for a worker that was started by others: in `folder`, so that relative paths of a recipe mean the same there."""

    def __init__(self, task: Callable[[Any], Any], folder: Path) -> None:
        self.task, self.folder = task, folder

    def __call__(self, item: Any) -> Any:
        try:
            if Path.cwd() != self.folder:
                os.chdir(self.folder)
        except OSError as error:
            reason = f"a Dask worker does not see {self.folder} ({error.strerror}); all workers need the same files under the same paths"
            raise SourceError(reason) from error
        return self.task(item)
