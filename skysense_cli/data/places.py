"""Many footprints in little memory: a table of 42 bytes each, from which single ones are made when they are needed."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

from skysense_cli.geo.crs import transformed
from skysense_cli.geo.footprints import Footprint

_ROW = np.dtype([
    ("crs", "i2"), ("left", "f8"), ("top", "f8"), ("row", "i4"), ("col", "i4"), ("first", "M8[D]"), ("last", "M8[D]"),
])  # fmt: skip
_NEVER = np.datetime64("NaT", "D")


class Places(Sequence[Footprint]):
    """Footprints of one size, in order. crs: the names that the table's numbers stand for"""

    def __init__(self, table: np.ndarray, crs: Sequence[str], size_m: float) -> None:
        self.table, self.crs, self.size_m = table, tuple(crs), size_m

    @classmethod
    def of(cls, footprints: Iterable[Footprint]) -> "Places":
        """The table of footprints that are taken one by one."""
        numbers: dict[str, int] = {}
        sizes: set[float] = set()

        def rows() -> Iterator[tuple]:
            for one in footprints:
                sizes.add(one.size_m)
                yield numbers.setdefault(one.crs, len(numbers)), one.left, one.top, one.row, one.col, *(one.days or (_NEVER, _NEVER))

        table = np.fromiter(rows(), _ROW)
        if len(sizes) > 1:
            raise ValueError(f"footprints of several sizes: {sorted(sizes)}")
        return cls(table, tuple(numbers), min(sizes, default=0.0))

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> Footprint: ...
    @overload
    def __getitem__(self, index: slice) -> "Places": ...
    def __getitem__(self, index: int | slice) -> "Footprint | Places":
        if isinstance(index, slice):
            return Places(self.table[index], self.crs, self.size_m)
        crs, left, top, row, col, first, last = self.table[index].tolist()
        days = None if first is None else (np.datetime64(first, "D"), np.datetime64(last, "D"))
        return Footprint(self.crs[crs], left, top, self.size_m, row, col, days)

    def take(self, numbers: np.ndarray) -> "Places":
        """The footprints at some positions, or where a mask is true."""
        return Places(self.table[numbers], self.crs, self.size_m)

    def within(self, first: np.datetime64, last: np.datetime64) -> "Places":
        """The same ground with these days."""
        table = self.table.copy()
        table["first"], table["last"] = first, last
        return Places(table, self.crs, self.size_m)

    @property
    def bounds(self) -> np.ndarray:
        """(N, 4) left, bottom, right, top."""
        left, top = self.table["left"], self.table["top"]
        return np.column_stack([left, top - self.size_m, left + self.size_m, top])

    def lonlat(self) -> np.ndarray:
        """(N, 2) longitude and latitude of the centres."""
        found = np.empty((len(self), 2))
        x, y = self.table["left"] + self.size_m / 2, self.table["top"] - self.size_m / 2
        for number, crs in enumerate(self.crs):
            here = self.table["crs"] == number
            lon, lat = transformed(crs, "EPSG:4326", x[here], y[here])
            found[here] = np.column_stack([(lon + 180) % 360 - 180, lat])
        return found

    def blocks(self, side: int) -> tuple[np.ndarray, list[str]]:
        """(N,) block of each footprint and the names of the blocks: `side` x `side` footprints of one CRS, e.g. `32631_r12_c-3`."""
        across, half = 1 << 28, 1 << 27
        rows, columns = self.table["row"].astype(np.int64) // side, self.table["col"].astype(np.int64) // side
        keys, numbers = np.unique(
            (self.table["crs"].astype(np.int64) * across + rows + half) * across + columns + half, return_inverse=True
        )
        found = []
        for key in keys.tolist():
            rest, column = divmod(key, across)
            crs, row = divmod(rest, across)
            prefix = self.crs[crs].removeprefix("EPSG:") if self.crs[crs].startswith("EPSG:") else "grid"
            found.append(f"{prefix}_r{row - half}_c{column - half}")
        return numbers.astype(np.int32), found

    def repeated(self) -> np.ndarray:
        """(N,) bool: footprints that came before, with the same place and days."""
        names = ("crs", "left", "top", "first", "last")
        days = {"first": np.int64, "last": np.int64}  # unlike NaT, these are equal to themselves
        keys = np.rec.fromarrays([self.table[name].astype(days.get(name, self.table.dtype[name])) for name in names])
        _, first = np.unique(keys, return_index=True)
        again = np.ones(len(self), bool)
        again[first] = False
        return again
