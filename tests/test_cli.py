"""What every command shares: how errors end, what reaches a terminal, and that files come before what is printed."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from command import mnistgen
from rich.table import Table
from tiny import strokes

from mnistgen import cli, console
from mnistgen.cli import main
from mnistgen.evaluator import build_classifier, save_classifier
from mnistgen.scoring import Evaluators, Scorer
from mnistgen.scoring.reference import of_dataset
from mnistgen.text import docstring, printable


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """strokes.npz in the working folder."""
    monkeypatch.chdir(tmp_path)
    images, labels = strokes(100)
    np.savez(tmp_path / "strokes.npz", images=images[:, 0].numpy(), labels=labels.numpy())
    return tmp_path / "strokes.npz"


@contextmanager
def nobody_reads() -> Iterator[None]:
    """Inside, standard output is a pipe whose reader has gone, as in `mnistgen ... | true`."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="utf-8") as stream, redirect_stdout(stream):  # noqa: PTH123
        yield


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("\x9b31m\r\x07", r"\x9b31m\r\x07"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("x\udcff", r"x\udcff"),
        ("two\nlines\tand é 漢 \U0001f600", "two\nlines\tand é 漢 \U0001f600"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_text_of_others_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "[bold]\x1b[31mx[/nothing]"  # neither as an escape nor as markup
    shown = r"[bold]\x1b[31mx[/nothing]"
    assert main(["sample", name]) == 2
    assert main(["data", name]) == 1
    console.Display(name).update(0.5, name)
    console.Display("x").note(name)
    console.out().print(name)
    table = Table(name)
    table.add_row(name)
    console.out().print(table)
    text = "".join(capsys.readouterr())
    assert text.count(shown) == 8, text
    assert "\x1b" not in text


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
def test_what_an_encoding_lacks_is_shown_plainly(data: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    assert main(["data", str(data)]) == 0
    print("± 0.5, \u2014, \u6f22, é")
    sys.stdout.flush()
    text = written.getvalue().decode(encoding)
    assert "####" in text  # the bars of the classes
    assert (
        text.splitlines()[-1]
        == {
            "cp1252": "± 0.5, \u2014, ?, é",
            "ascii": "+- 0.5, -, ?, e",
            "latin-1": "± 0.5, -, ?, é",
        }[encoding]
    )


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize(
    ("command", "files"),
    [
        ("data strokes.npz --out o/picture.png", {"picture.png"}),
        ("data export strokes.npz --format npz --out o/s.npz", {"s.npz"}),
        (
            "evaluator test c.safetensors --data strokes.npz --split all --out o",
            {"test.json", "confusion.png", "misclassified.png"},
        ),
    ],
)
def test_files_are_written_though_nobody_reads_what_is_printed(
    command: str, files: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnistgen.cli.evaluator.SHOWN_ERRORS", 2)
    save_classifier("c.safetensors", build_classifier("mlp"))
    with nobody_reads():
        assert main(command.split()) == 1
    assert {path.name for path in Path("o").iterdir()} == files


def test_a_score_is_written_though_nobody_reads_it(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mnistgen import load_data

    evaluators = Evaluators.of({"A": build_classifier("lenet").eval()})
    scorer = Scorer(
        "strokes", evaluators=evaluators, reference=of_dataset(evaluators, load_data(data, "all")), device="cpu"
    )
    monkeypatch.setattr("mnistgen.cli.score.Scorer", lambda *_, **__: scorer)
    command = ["score", str(data), "--data", "strokes", "--n", "100", "--quiet", "--json"]
    assert main([*command, "."]) == 1  # what has been computed is shown though it cannot be written
    assert "protocol " in capsys.readouterr().out
    assert main([*command, os.devnull]) == 0
    assert not Path(os.devnull).is_file()
    with nobody_reads():
        assert main([*command, "s.json"]) == 1
    assert Path("s.json").is_file()
    assert Path("samples/score-strokes-npz/grid.png").is_file()


def test_a_path_that_cannot_be_is_a_sentence(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in ("x" * 300, "a/" * 3000, "x\udcff", "\ud800"):
        for command in (
            ["data", path],
            ["data", "strokes.npz", "--out", f"{path}.png"],
            ["sample", path],
            ["score", path],
            ["evaluator", "test", path, "--data", "strokes.npz"],
            ["train", "vae", "--data", path],
            ["augment", "vae", "--data", path],
            ["new", "some-model", "--out", f"{path}/b"],
        ):
            code = main(command)
            error = capsys.readouterr().err
            if code or path != "x\udcff":  # which is a name that files can have, if an odd one
                assert code in (1, 2), command
                assert error.startswith("mnistgen: "), error


def test_descriptions_survive_optimised_python(tmp_path: Path) -> None:
    """`python -OO` removes docstrings, and a dataclass without one is given its signature."""

    @dataclass
    class Options:
        """What it is for.

        And more.
        """

        x: int = 0

    class Plain:
        pass

    assert docstring(Options) == "What it is for.\n\nAnd more."
    Options.__doc__ = "Options(x: int = 0)"
    assert docstring(Options) == "What it is for.\n\nAnd more."
    Options.__doc__ = None
    assert docstring(Options) == "What it is for.\n\nAnd more."
    assert docstring(Plain) == docstring(type("Made", (), {})) == ""


def test_standard_output_that_is_full_or_closed(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    full = "import sys\nsys.stdout = open('/dev/full', 'w')"
    assert "mnistgen: No space left on device." in mnistgen(tmp_path, "models", script=full, code=1)
    assert mnistgen(tmp_path, "models", script="import sys\nsys.stdout = None") == ""


def test_errors_of_the_system_are_sentences(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: list[str]) -> int:
        raise PermissionError(13, "Permission denied", "some/file")

    monkeypatch.setattr(cli, "_run", fail)
    assert main([]) == 1
    assert capsys.readouterr().err == "mnistgen: some/file: Permission denied.\n"
