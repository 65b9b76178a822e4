r"""Names of files whose bytes are no UTF-8, e.g. of Latin-1 times: as text that recipes, tags and messages can hold, and back.

Such a byte is written `\x{e9}`, so `caf\x{e9}.tif` stands for the bytes `caf\xe9.tif`.
"""

import os
import re
from pathlib import Path

from skysense_cli.errors import DataError

BYTE = re.compile(r"\\x\{([89a-f][0-9a-f])\}")


def text_of(path: str | os.PathLike[str]) -> str:
    """`path` as valid text, as it is if it is valid. Raises DataError where another file's name reads the same."""
    given = os.fspath(path)
    text = re.sub("[\udc80-\udcff]", lambda byte: f"\\x{{{ord(byte[0]) - 0xDC00:02x}}}", given)
    if text != given and os.path.lexists(text):
        raise DataError(f"{text}: is the name of one file, and of another whose bytes are no valid UTF-8; rename one of them")
    return text


def path_of(text: str | os.PathLike[str]) -> Path:
    """The file or folder that `text_of` made a text of; what has these very characters in its name comes first."""
    path = Path(text)
    if not BYTE.search(str(path)) or os.path.lexists(path):
        return path
    return Path(BYTE.sub(lambda found: chr(0xDC00 + int(found[1], 16)), str(path)))


def is_plain(text: str | os.PathLike[str]) -> bool:
    """Whether the file's name is valid text itself."""
    return path_of(text) == Path(text)
