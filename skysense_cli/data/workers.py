"""Worker processes of this machine: forked, so that they begin at once with all that is loaded; one that dies is replaced.

Where a fork is unsafe a worker is started afresh, which takes the seconds of its imports.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self

MOST_DEATHS = 4  # of workers over one item
STOP_S = 0.5  # that a worker has to end by itself
LOOK_S = 0.2  # between two looks whether the parent lives


class Died(Exception):
    """What an item gives whose workers died, MOST_DEATHS of them."""


class Workers:
    """`count` processes that apply `function`, which is given to each once; a context that ends them, at once after an error."""

    def __init__(self, function: Callable[[Any], Any], count: int) -> None:
        self._function, self._count = function, count
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        self._workers = [_Worker(self._function) for _ in range(self._count)]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for worker in self._workers:
            worker.end(now=kind is not None)

    def map(self, items: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
        """(item, result), or (item, Died), as they get done; items are taken as workers get free. An exception of `function` is raised."""
        deaths: dict[int, int] = {}
        again: list[tuple[int, Any]] = []
        ahead = enumerate(items)
        busy: dict[Connection, tuple[_Worker, int, Any]] = {}
        idle = list(self._workers)
        while True:
            while idle and (given := again.pop() if again else next(ahead, None)) is not None:
                worker = idle.pop()
                busy[worker.line] = worker, *given
                worker.give(given[1])
            if not busy:
                return
            for line in wait(list(busy)):
                worker, number, item = busy.pop(line)  # type: ignore[call-overload]
                try:
                    result = worker.result()
                except EOFError:
                    idle.append(self._replaced(worker))
                    deaths[number] = deaths.get(number, 0) + 1
                    if deaths[number] < MOST_DEATHS:
                        again.append((number, item))
                    else:
                        yield item, Died(f"{MOST_DEATHS} workers died over it")
                    continue
                idle.append(worker)
                yield item, result

    def _replaced(self, worker: "_Worker") -> "_Worker":
        worker.end(now=True)
        self._workers.remove(worker)
        self._workers.append(_Worker(self._function))
        return self._workers[-1]


class _Worker:
    """One process and the line to it."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("fork" if _may_fork() else "spawn")
        self.line, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, function, os.getpid()), daemon=True)  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about threads of numerical libraries, which take care of forks themselves
            self._process.start()
        other.close()  # so that its end is seen here

    def give(self, item: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # a worker that died while idle; reading its result says so
            self.line.send((item,))

    def result(self) -> Any:
        """Raises EOFError when the process died, or what the function raised."""
        try:
            good, result = self.line.recv()
        except ConnectionResetError as error:
            raise EOFError from error
        if good:
            return result
        raise result

    def end(self, *, now: bool) -> None:
        """Let it end by itself, as an idle one does in no time, or end it."""
        if now:
            self._process.terminate()
        else:
            with contextlib.suppress(BrokenPipeError):
                self.line.send(None)  # closing the line would not do: workers that were forked later hold it too
        self._process.join(STOP_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self._process.close()
        self.line.close()


def _may_fork() -> bool:
    """Not from threads, nor beside torch, whose OpenMP does not outlive a fork."""
    return sys.platform != "darwin" and threading.active_count() == 1 and "torch" not in sys.modules


def _work(line: Connection, function: Callable[[Any], Any], parent: int) -> None:
    """Apply `function` to what comes on the line until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    while (given := line.recv()) is not None:
        try:
            answer = True, function(given[0])
        except Exception as error:  # noqa: BLE001  the parent raises it
            error.add_note("in a worker process:\n" + "".join(traceback.format_exception(error)))
            answer = False, error
        line.send(answer)


def _end_with(parent: int) -> None:
    """End this process with its parent, whatever it is doing: the next run may begin at once and must not meet it."""
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os._exit(1)
