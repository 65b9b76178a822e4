"""A function mapped over items, here or by Dask: what was done, what failed, in the order of the items."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from skysense_cli import console
from skysense_cli.errors import SkySenseError

STOP_S = 0.5  # that a worker process has to end by itself

Given = TypeVar("Given")
Result = TypeVar("Result")


def run(function: Callable[[Given], Result], items: Sequence[Given], *, names: Sequence[str], workers: int = 1,
        address: str | None = None) -> list[Result | SkySenseError]:  # fmt: skip
    """`function` of every item; an item that fails with a SkySenseError gives the error, reported by its name.

    workers: processes on this machine; 1 runs here, without Dask      address: of a running Dask scheduler instead
    Anything that is no SkySenseError is a bug and ends the run.
    """
    results: dict[int, Result | SkySenseError] = {}
    for index, result in console.progress(_results(function, items, workers, address), "blocks", total=len(items)):
        results[index] = result
        if isinstance(result, SkySenseError):
            console.warn(f"{names[index]}: {result}")
    return [results[index] for index in range(len(items))]


def _results(function: Callable[[Given], Result], items: Sequence[Given], workers: int,
             address: str | None) -> Iterator[tuple[int, Result | SkySenseError]]:  # fmt: skip
    """(position, result) as they come in."""
    if not items:
        return
    guarded = _Guarded(function)
    if address is None and (workers == 1 or len(items) == 1):
        for index, item in enumerate(items):
            yield index, guarded(item)
        return
    from distributed import as_completed  # a second of import that a run in this process does without

    with _client(min(workers, len(items)), address) as client:
        futures = {client.submit(guarded, item, pure=False, retries=0): index for index, item in enumerate(items)}
        for future, result in as_completed(futures, with_results=True):
            yield futures[future], result


@contextlib.contextmanager
def _client(workers: int, address: str | None) -> Iterator[Any]:
    """A client of the scheduler at `address`, or of own worker processes that listen on this machine only."""
    from distributed import Client, LocalCluster

    if address is not None:
        with Client(address) as client:
            yield client
        return
    cluster = LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None, memory_limit=0,
        silence_logs=logging.CRITICAL,
    )  # fmt: skip
    with cluster, Client(cluster) as client:
        try:
            yield client
        except BaseException:  # an interrupt too: a worker in the middle of a block would hold the exit up for seconds
            cluster.sync(_stop, list(cluster.workers.values()))
            raise


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
