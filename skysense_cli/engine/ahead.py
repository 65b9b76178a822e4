"""Threads beside the model: one that reads ahead of it, one that writes behind it. Errors and interrupts pass at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, suppress
from threading import Condition, Thread
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")

PATIENCE_S = 1.0  # for a thread that is in the middle of a read when the work is given up


class _Closed(Exception):
    """The other side has gone."""


class _Line(Generic[Item]):
    """At most `depth` items between two threads. What one side fails with is raised at the other."""

    def __init__(self, depth: int) -> None:
        self._items: deque[Item] = deque()
        self._depth, self._changed = depth, Condition()
        self._ended = self._closed = False
        self._error: BaseException | None = None

    def put(self, item: Item) -> None:
        """Wait for room. Raises what the taker failed with, _Closed when it is gone."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) < self._depth or self._closed)
            if self._closed:
                raise self._error or _Closed
            self._items.append(item)
            self._changed.notify_all()

    def take(self) -> Item:
        """Wait for an item. Raises StopIteration at the end, and what the giver failed with."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items) or self._ended or self._closed)
            if self._closed:
                raise _Closed
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            raise StopIteration

    def end(self, error: BaseException | None = None) -> None:
        """The giver has no more."""
        with self._changed:
            self._ended, self._error = True, self._error or error
            self._changed.notify_all()

    def close(self, error: BaseException | None = None) -> None:
        """The taker wants no more; what waits is dropped."""
        with self._changed:
            self._closed, self._error = True, self._error or error
            self._items.clear()
            self._changed.notify_all()


def ahead(items: Iterable[Item], depth: int = 1) -> Generator[Item]:
    """The same items, made in a thread of their own that is up to `depth` of them ahead.

    Closing the iterator (or an exception at its user's) ends the thread, and closes `items` if it is a generator.
    """
    line = _Line[Item](depth)
    thread = Thread(target=_give, args=(items, line), daemon=True, name="skysense-ahead")
    thread.start()
    try:
        while True:
            try:
                item = line.take()
            except StopIteration:
                return
            yield item
            del item  # not kept while the next one is waited for
    finally:
        line.close()
        thread.join(PATIENCE_S)


def _give(items: Iterable[Item], line: _Line[Item]) -> None:
    try:
        for item in items:
            line.put(item)
            del item
        line.end()
    except _Closed:
        pass
    except BaseException as error:  # noqa: BLE001 - raised again by the taker
        line.end(error)
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


class Behind(AbstractContextManager["Behind[Item]"], Generic[Item]):
    """Calls `use` with each item in a thread of its own that is up to `depth` of them behind.

    Leaving the block waits for the rest; after an exception in the block what waits is dropped. What `use`
    fails with is raised by the next `put`, or on leaving.
    """

    def __init__(self, use: Callable[[Item], None], depth: int = 1) -> None:
        self._use, self._line = use, _Line[Item](depth)
        self._failed: BaseException | None = None
        self._thread = Thread(target=self._take, daemon=True, name="skysense-behind")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def put(self, item: Item) -> None:
        """Hand over an item; waits while `depth` of them wait."""
        self._line.put(item)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._line.close()
            self._thread.join(PATIENCE_S)
            return
        self._line.end()
        while self._thread.is_alive():
            self._thread.join(1)
        if self._failed is not None:
            raise self._failed

    def _take(self) -> None:
        with suppress(StopIteration, _Closed):
            while True:
                item = self._line.take()
                try:
                    self._use(item)
                except BaseException as error:  # noqa: BLE001 - raised again by the giver
                    self._failed = error
                    self._line.close(error)
                    return
                del item
