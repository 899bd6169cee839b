"""Flags and their help, whatever the command."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from mnistgen import UsageError
from mnistgen.cli.arguments import Common, parse


@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """Do something.

    A second paragraph.
    """

    count: int | None = None
    """How many."""
    pair: tuple[int, int] | None = None
    """Two of them."""
    names: tuple[str, ...] | None = None
    """Whose."""
    part: Literal["top", "left"] | None = None
    """Which part."""
    out: Path | None = None
    """Where to; default: here."""
    text: str = ""
    """Some text."""
    rate: float = 0.5
    """How fast."""
    loud: bool = False
    """With noise."""
    option: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME", help_behavior_hint="(mine)")] = ()
    """With a word of its own on its default."""


@dataclass(frozen=True)
class Nested:
    """Options inside others."""

    options: Annotated[Options, tyro.conf.arg(name="")] = field(default_factory=Options)


COMMAND = "mnistgen sample " + "a-checkpoint-with-a-long-name " * 5


@pytest.mark.parametrize("kind", [Options, Nested])
def test_help_shows_no_none_and_no_broken_command(kind: type, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(kind, ["--help"], prog="mnistgen something", examples=COMMAND)
    text = capsys.readouterr().out
    assert "None" not in text
    assert "False" not in text
    assert "default: )" not in text
    for line in ("--count INT", "--pair INT INT", "--names [STR [STR ...]]", "--part {top,left}", "--out PATH"):
        assert line in text
    assert "(default: 0.5)" in text
    assert "(mine)" in text
    assert COMMAND.strip() in text
    if kind is Options:
        assert "\nA second paragraph.\n" in text


def test_a_flag_that_may_be_left_out_takes_no_word_none() -> None:
    options = parse(Options, ["--count", "3", "--pair", "1", "2", "--part", "top"], prog="p", examples="")
    assert (options.count, options.pair, options.part, options.out) == (3, (1, 2), "top", None)
    assert parse(Options, ["--out", "None", "--names"], prog="p", examples="").out == Path("None")
    again = parse(Options, ["--rate", "1"], prog="p", examples="", default=options)
    assert (again.count, again.pair, again.rate) == (3, (1, 2), 1.0)
    for wrong in (["--count", "None"], ["--pair", "1"], ["--pair", "1", "2", "3"], ["--part", "None"]):
        with pytest.raises(SystemExit):
            parse(Options, wrong, prog="p", examples="")


def test_a_dash_is_no_name_of_a_file_or_folder() -> None:
    for kind in (Options, Nested):
        with pytest.raises(UsageError, match="--out -: this is not written to standard output; give a path"):
            parse(kind, ["--out", "-"], prog="p", examples="")

    class Streaming(Options):
        standard_output = ("out",)

    assert parse(Streaming, ["--out", "-"], prog="p", examples="").out == Path("-")
