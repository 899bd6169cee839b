"""The command line: one small module per command, imported only when that command is asked for.

Nothing here imports torch, so `mnistgen --help` answers at once.
"""

import importlib
import os
import sys
import traceback
from contextlib import suppress
from typing import NamedTuple

from mnistgen.errors import MnistgenError, PluginError, UsageError, suggestion
from mnistgen.text import say, show_plainly

TRACEBACK = "MNISTGEN_TRACEBACK"  # environment variable that shows where an error comes from


class Command(NamedTuple):
    module: str  # has run(arguments: list[str], prog: str) -> int
    summary: str


COMMANDS = {
    "train": Command("mnistgen.cli.train", "train a model on a dataset"),
    "sample": Command("mnistgen.cli.sample", "sample labelled images from a trained model"),
    "draw": Command(
        "mnistgen.cli.draw", "other pictures of a model: interpolate, reconstruct, trajectory, inpaint, ..."
    ),
    "score": Command("mnistgen.cli.score", "score images against real ones, beside the best and worst value"),
    "report": Command("mnistgen.cli.report", "show models, scores and trainings on one page, in a browser"),
    "demo": Command("mnistgen.cli.demo", "draw, complete, explore, read and score in the browser"),
    "export": Command("mnistgen.cli.export", "write a model or an evaluator as ONNX, for other programs"),
    "push": Command("mnistgen.cli.push", "put a checkpoint on Hugging Face's hub"),
    "augment": Command("mnistgen.cli.augment", "does synthetic data help to train a classifier?"),
    "evaluator": Command("mnistgen.cli.evaluator", "train or test a classifier of images"),
    "models": Command("mnistgen.cli.models", "list the models there are"),
    "data": Command("mnistgen.cli.data", "show a dataset, or export it"),
    "check": Command("mnistgen.cli.check", "test that a model keeps the plugin contract"),
    "new": Command("mnistgen.cli.new", "write a new plugin as a starting point"),
}

EXAMPLES = """examples:
  mnistgen train vae                                  train on MNIST with defaults
  mnistgen sample vae-mnist --digits 0-9 --out grid.png
  mnistgen sample vae-mnist --count 1000 --out digits.npz
  mnistgen score vae-mnist                            its numbers, beside their scale
  mnistgen augment vae --plan                         does synthetic data help to train a classifier?
  mnistgen models                                     what can be trained
  mnistgen train ./mymodel.py                         a model of your own, in a file
  mnistgen COMMAND --help                             the flags of a command"""


def usage() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    return f"""usage: mnistgen COMMAND ...

A workbench for generative models on MNIST-format images.

commands:
{commands}

{EXAMPLES}"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    show_plainly()
    try:
        code = _run(arguments)
        sys.stdout.flush()  # here, where an error is told, and not when Python ends
        return code
    except MnistgenError as error:
        return _fail(_told(error), 2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of our output has gone: `mnistgen models | head -1`
        _silence()
        return 1
    except OSError as error:  # of a disk or a path, wherever that was met
        _silence()
        return _fail(f"{f'{error.filename}: ' if error.filename else ''}{error.strerror or error}.", 1)
    except UnicodeEncodeError as error:  # a path with half a character in it
        return _fail(f"{error.object!r}: cannot be the path of a file: {error.reason}.", 1)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    name, *rest = arguments
    if name == "--version":
        from importlib.metadata import version

        print(f"mnistgen {version('mnistgen')}")
        return 0
    if name not in COMMANDS:
        raise UsageError(f"There is no command {name!r}. {suggestion(name, COMMANDS)}")
    try:
        code: int = importlib.import_module(COMMANDS[name].module).run(_with_plugins(rest), prog=f"mnistgen {name}")
    except SystemExit as stop:  # the flag parser's own: --help, or a flag it does not know
        return stop.code if isinstance(stop.code, int) else 2
    return code


def _with_plugins(arguments: list[str]) -> list[str]:
    """Register the files of `--plugin`, which every command has, and return the other arguments."""
    rest, left = [], iter(arguments)
    for argument in left:
        flag, equals, value = argument.partition("=")
        if flag != "--plugin":
            rest.append(argument)
            continue
        from mnistgen.registry import register_file

        given = value if equals else next(left, "")
        if not given:
            raise UsageError("--plugin needs a file, as in --plugin ./mymodel.py")
        register_file(given)
    return rest


def _told(error: MnistgenError) -> str:
    """The sentence, and for a plugin's own error the traceback or how to get it."""
    if os.environ.get(TRACEBACK):
        return "".join(traceback.format_exception(error)) + str(error)
    own = isinstance(error, PluginError) and error.__cause__ is not None
    return f"{error} {TRACEBACK}=1 shows the traceback." if own else str(error)


def _fail(message: str, code: int) -> int:
    if os.environ.get("RANK", "0") == "0":
        with suppress(OSError):  # then there is nobody to tell
            say(f"mnistgen: {message}", sys.stderr)
    return code


def _silence() -> None:
    """Let what is still to be printed, which Python does at its end, fail no more where it cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
