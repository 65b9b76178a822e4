"""Readers: public labelled data sets -> samples. One data set per file.

To add one, write `data/readers/<kind>.py`:

    class MyDataSet(Reader):
        def __init__(self, path: str, /, *, some_option: int = 1) -> None: ...
    build = MyDataSet

A reader says in the provenance of its samples what the data set leaves open: how the modalities were laid on each
other, which calibration or band order was taken for granted.
"""

from collections.abc import Iterator
from pathlib import Path

from skysense_cli.data import index, npz
from skysense_cli.data.sample import Sample


class Reader:
    """The samples of a data set on this machine, one at a time."""

    def samples(self) -> Iterator[Sample]:
        """Each sample, in the order of their ids, sound by `invariants.check_sample`.

        Raises DataError that names the file when one is missing, damaged or not what the data set says of itself.
        """
        raise NotImplementedError


def write_data_set(reader: Reader, home: Path, *, name: str, split: str = "train") -> int:
    """Write the samples of a reader as a data set in `home`, with an index, and give back their number.

    name: of the index part that lists them; other readers may write other parts to the same `home`
    """
    rows = []
    for sample in reader.samples():
        path = f"samples/{index.shard_of(name)}/{sample.id}.npz"
        npz.write(sample, home / path)
        dates = {modality: tuple(str(time) for time in series.times) for modality, series in sorted(sample.series.items())}
        rows.append(
            index.Row(sample.id, path, split, sample.crs, sample.bounds, sample.lonlat, tuple(sorted(sample.series)), dates)
        )  # fmt: skip
    index.write_part(home / "index", name, rows)
    return len(rows)
