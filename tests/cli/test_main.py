"""The command as a user runs it: quick to answer, one line per error, documented exit codes."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from skysense_cli.cli import main
from skysense_cli.errors import DataError, RecipeError, SkySenseWarning, SourceError

HEAVY = ("torch", "rasterio", "dask", "distributed", "geopandas", "pandas", "ruamel", "rich", "numpy", "xarray", "scipy", "cv2")
COMMANDS = ("build-data", "pretrain", "finetune", "evaluate", "predict", "map-prototypes", "embed", "demo", "doctor", "recipe")
RECIPE_COMMANDS = COMMANDS[:7]


def skysense(*arguments, **options):
    command = [sys.executable, "-m", "skysense_cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def modules_after(*arguments):
    """Names of the packages that are imported when the command ends."""
    code = (
        "import sys\n"
        f"sys.argv = ['skysense', *{list(arguments)!r}]\n"
        "from skysense_cli.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    print('CODE', end.code)\n"
        "print('MODULES', *sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    return set(lines[-1].split()[1:]), lines


def test_help_imports_nothing_heavy():
    modules, _ = modules_after("--help")
    assert not modules & set(HEAVY)


@pytest.mark.parametrize("command", RECIPE_COMMANDS)
def test_the_help_of_a_command_imports_nothing_heavy_and_lists_the_shared_options(command):
    modules, lines = modules_after(command, "--help")
    assert not modules & set(HEAVY)
    for option in ("--set", "--out", "--dry-run", "--overwrite", "--device", "--debug"):
        assert option in "\n".join(lines)


@pytest.mark.parametrize("arguments", [("check", "pretrain/nano"), ("show", "pretrain/nano"), ("schema", "finetune"), ("list",)])
def test_recipe_commands_import_neither_torch_nor_rasterio(arguments):
    modules, lines = modules_after("recipe", *arguments)
    assert lines[-2] == "CODE 0"
    assert not modules & {"torch", "rasterio", "dask", "geopandas", "numpy"}


def test_help_lists_every_command():
    text = skysense("--help").stdout
    for command in COMMANDS:
        assert f"\n  {command} " in text, command


def test_the_version_is_printed():
    assert skysense("--version").stdout == "skysense 0.1.0\n"


def test_an_unknown_command_or_option_is_a_usage_error():
    for arguments in (("pretran",), ("pretrain", "--nope"), ("pretrain",)):
        result = skysense(*arguments)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", RECIPE_COMMANDS)
def test_a_recipe_that_is_not_there_is_one_line_and_exit_code_2(command):
    result = skysense(command, "nowhere.yaml")
    assert result.returncode == 2
    assert result.stderr == "error: nowhere.yaml: no such file, and no shipped recipe has that name\n"


@pytest.fixture
def failing(monkeypatch):
    """A function that runs `main` with a command that raises the given error, and gives its exit code."""

    def run(error, *arguments):
        def fail() -> None:
            raise error

        monkeypatch.setattr(main, "app", fail)
        monkeypatch.setattr(sys, "argv", ["skysense", *arguments])
        with pytest.raises(SystemExit) as end:
            main.main()
        return end.value.code

    handler = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize(("error", "code"), [(RecipeError("a: b"), 2), (DataError("a: b"), 3), (SourceError("a: b"), 5)])
def test_an_error_is_one_line_and_its_exit_code(failing, capsys, error, code):
    assert failing(error) == code
    assert capsys.readouterr().err == "error: a: b\n"


def test_debug_shows_the_traceback_too(failing, capsys):
    assert failing(DataError("a: b"), "--debug") == 3
    text = capsys.readouterr().err
    assert text.startswith("Traceback")
    assert text.endswith("error: a: b\n")


def test_an_interrupt_exits_with_130(failing):
    assert failing(KeyboardInterrupt()) == 130


def test_a_bug_keeps_its_traceback(failing):
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())


def test_our_warnings_are_one_line_each():
    code = (
        "import sys, warnings; from skysense_cli.cli import main; from skysense_cli.errors import SkySenseWarning\n"
        "sys.argv = ['skysense', '--version']\n"
        "main.app = lambda: warnings.warn('dates are unknown', SkySenseWarning, stacklevel=2)\n"
        "main.main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr == "warning: dates are unknown\n"
    assert issubclass(SkySenseWarning, UserWarning)


def test_sigterm_unwinds_and_exits_with_143(tmp_path):
    code = (
        "import sys, time; from skysense_cli.cli import main\n"
        "from pathlib import Path\n"
        "def work():\n"
        "    try:\n        print('ready', flush=True); time.sleep(60)\n"
        f"    finally:\n        Path({str(tmp_path / 'cleaned')!r}).touch()\n"
        "main.app = work; main.main()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert (tmp_path / "cleaned").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_when_all_is_done_changes_no_exit_code(number):
    code = (
        "import os, time; from skysense_cli.cli import main\n"
        "class Last:\n"
        "    def __del__(self, write=os.write, sleep=time.sleep):\n        write(1, b'ending\\n'); sleep(1)\n"
        "last, main.app = Last(), lambda: None\n"
        "main.main()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ending\n"
    process.send_signal(number)
    assert process.wait(30) == 0


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m skysense_cli recipe schema pretrain | head -1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert result.stdout == "{\n"
    assert result.stderr == ""


def test_a_full_disk_is_one_line_not_a_traceback(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "x.npz"))

    monkeypatch.setattr(main, "app", full)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 3
    assert f"{tmp_path / 'x.npz'}: cannot be written (No space left on device)" in capsys.readouterr().err
