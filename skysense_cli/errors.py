"""What a user can cause, each with its documented exit code.

Raise a child of `SkySenseError` with one line that says where, what was found, what was expected
and what to do. The command line prints that line and exits with `exit_code`; any other exception
is a bug and shows a traceback.
"""


class SkySenseError(Exception):
    """A failure with a cause outside the program. `exit_code` is what the command returns."""

    exit_code = 3


class RecipeError(SkySenseError):
    """A recipe or an option is wrong; the message may hold one line per mistake."""

    exit_code = 2


class DataError(SkySenseError):
    """A sample, an index, a label or a table does not hold what it should."""


class GridError(SkySenseError):
    """A raster or its georeference cannot be used as asked."""


class BundleError(SkySenseError):
    """A checkpoint folder is damaged, incomplete or does not fit."""


class DiskError(SkySenseError):
    """The disk does not take a file: it is full, read-only, closed to this user, or the file is too large for it."""


class TrainingError(SkySenseError):
    """Training cannot go on, e.g. the loss is not finite."""


class ItemsFailed(SkySenseError):
    """The work ended, but some items failed; each was reported by name."""

    exit_code = 4


class SourceError(SkySenseError):
    """A catalogue, a server or the network did not give what was asked for."""

    exit_code = 5


class SkySenseWarning(UserWarning):
    """A thing a user should know; the command line prints it as one line."""
