"""A function mapped over items, here or by Dask: what was done and what failed, as it gets done.

Items are taken one by one as workers get free, so a million of them never become a million tasks at once.
"""

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from skysense_cli import console
from skysense_cli.errors import DataError, SkySenseError, SourceError

STOP_S = 0.5  # that a worker process has to end by itself
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": 1,
    # Dask's own setting gives freed memory back at once: every array is then mapped anew, page by page, for half of the time that a
    # block takes. Here a worker keeps up to 256 MiB for the next arrays.
    "MALLOC_TRIM_THRESHOLD_": 256 << 20,
    "MALLOC_MMAP_THRESHOLD_": 32 << 20,
}
AHEAD = 3  # tasks that the scheduler knows for each thread of its workers: one runs, the others wait for it

Given = TypeVar("Given")
Result = TypeVar("Result")


def run(function: Callable[[Given], Result], items: Iterable[Given], *, name: Callable[[Given], str], total: int, workers: int = 1,
        address: str | None = None, what: str = "blocks") -> Iterator[tuple[Given, Result | SkySenseError]]:  # fmt: skip
    """(item, `function` of it) as they get done; an item that fails with a SkySenseError gives the error, reported by its name.

    total: number of items      workers: processes on this machine; 1 runs here, without Dask      what: the items are called
    address: of a running Dask scheduler instead, e.g. tcp://host:8786
    An item whose worker dies is tried by others and then fails too. Raises SourceError when the scheduler does not
    answer, is lost or has unfit workers. Any other exception is a bug and ends the run.
    """
    for item, result in console.progress(_results(function, items, name, min(workers, total), address), what, total=total):
        if isinstance(result, SkySenseError):
            console.warn(f"{name(item)}: {result}")
        yield item, result


def _results(function: Callable[[Given], Result], items: Iterable[Given], name: Callable[[Given], str], workers: int,
             address: str | None) -> Iterator[tuple[Given, Result | SkySenseError]]:  # fmt: skip
    guarded = _Guarded(function)
    if address is None and workers <= 1:
        for item in items:
            yield item, guarded(item)
        return
    ahead = iter(items)
    first = next(ahead, None)
    if first is None:
        return
    with _client(workers, address) as client:
        task = _Elsewhere(guarded, Path.cwd()) if address is not None else guarded
        yield from _in_window(client, task, itertools.chain([first], ahead), name)


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
            result = DataError(f"{error.allowed_failures + 1} workers died over it; do they have memory enough?")
        except CancelledError as error:
            raise SourceError(f"the Dask scheduler was lost or gave up {name(item)}; the same command goes on from here") from error
        except ImportError as error:
            raise SourceError(f"a Dask worker cannot run this ({error}); install the same skysense-cli on every worker") from error
        fill()
        yield item, result


@contextlib.contextmanager
def _client(workers: int, address: str | None) -> Iterator[Any]:
    """A client of the scheduler at `address`, or of own worker processes that listen on this machine only."""
    if address is not None:
        with contextlib.closing(_connected(address)) as client:
            yield client
        return
    from distributed import Client

    with local_cluster(workers) as cluster, Client(cluster) as client:
        try:
            yield client
        except BaseException:  # an interrupt too: a worker in the middle of a block would hold the exit up for seconds
            cluster.sync(_stop, list(cluster.workers.values()))
            raise


@contextlib.contextmanager
def local_cluster(workers: int) -> Iterator[Any]:
    """Dask workers of one thread each, and their scheduler, on this machine only."""
    import dask
    from distributed import LocalCluster  # before the setting, which its defaults would overwrite

    with dask.config.set({"distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT}):
        cluster = LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None, memory_limit=0,
            silence_logs=logging.CRITICAL,
        )  # fmt: skip
        with cluster:
            yield cluster


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


async def _stop(nannies: Sequence[Any]) -> None:
    """End the worker processes now; what they have not finished is left to the next run."""
    await asyncio.gather(*(nanny.close(timeout=STOP_S) for nanny in nannies))


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
