"""The app: one line per subcommand; errors become one line each and an exit code.

2 usage or recipe, 3 input data, 4 finished but some items failed, 5 network or source, 130 and 143 signals,
1 a bug, with its traceback.
"""

import atexit
import os
import signal
import sys
import traceback
import warnings
from typing import Annotated, Any

import typer

from skysense_cli import __version__, console
from skysense_cli.cli import (
    build_data,
    demo,
    doctor,
    embed,
    evaluate,
    finetune,
    map_prototypes,
    predict,
    pretrain,
    recipe,
    samples,
    view,
    weights,
)
from skysense_cli.errors import SkySenseError, SkySenseWarning
from skysense_cli.files import AGAIN, disk_error

app = typer.Typer(
    name="skysense", rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False, no_args_is_help=True,
    help="Earth observation foundation models, from scenes to maps. Each command reads one YAML recipe.",
)  # fmt: skip
app.command("build-data")(build_data.build_data)
app.command("pretrain")(pretrain.pretrain)
app.command("finetune")(finetune.finetune)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("map-prototypes")(map_prototypes.map_prototypes)
app.command("embed")(embed.embed)
app.command("view")(view.view)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.add_typer(recipe.app, name="recipe")
app.add_typer(samples.app, name="samples")
app.add_typer(weights.app, name="weights")


def _version(asked: bool) -> None:
    if asked:
        console.say(f"skysense {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; ends the process with the documented exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    for number in (signal.SIGINT, signal.SIGTERM):
        atexit.register(signal.signal, number, signal.SIG_IGN)  # the exit code is settled; Python would end by the signal instead
    warnings.showwarning = _show_warning
    debug = "--debug" in sys.argv[1:]
    try:
        app()
    except SkySenseError as error:
        if debug:
            traceback.print_exc()
        for line in str(error).splitlines():
            console.fail(line)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        told = disk_error(error)
        if told is None or debug:
            raise
        console.fail(f"{told}; {AGAIN}")
        sys.exit(told.exit_code)


def _terminate(number: int, frame: Any) -> None:
    """SIGTERM unwinds the stack, so that temporary files are removed and workers end."""
    sys.exit(143)


_show_other_warnings = warnings.showwarning


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    if issubclass(category, SkySenseWarning):
        console.warn(str(message))
    else:
        _show_other_warnings(message, category, *place, **more)
