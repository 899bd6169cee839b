"""What the terminal shows."""

import io
import re
import sys

import pytest
import torch
from rich.table import Table

from mnistgen import console


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.2, "59 s"),
        (75.2, "1 min 15 s"),
        (3599.7, "1 h 00 min"),
        (7260, "2 h 01 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


def test_a_picture_has_two_pixels_a_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    image = torch.arange(12, dtype=torch.uint8).view(3, 4) * 20
    text = console.picture(image)
    rows = text.plain.splitlines()
    assert rows == ["▀▀▀▀"] * 2
    styles = [span.style for span in text.spans]
    assert styles[0].color.triplet == (0, 0, 0)
    assert styles[0].bgcolor.triplet == (80, 80, 80)
    assert styles[5].bgcolor.triplet == (0, 0, 0)  # below the last row
    assert styles[5].color.triplet == (180, 180, 180)


def test_plain_lines_say_where_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    display = console.Display("train x")
    with display.live():
        display.update(0.25, "loss 3")
        display.update(0.5, "loss 2")  # too soon for another line
        display.update(1.0, "loss 1", last=True)
    err = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in err] == ["25%", "100%"]
    assert "left" not in err[-1]
    quiet = console.Display("train x", quiet=True)
    quiet.update(1.0, "loss 1", last=True)
    quiet.note("nothing")
    assert capsys.readouterr() == ("", "")


def test_a_line_is_never_broken_but_a_table_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    command = "mnistgen sample " + "checkpoints/a-long-name/model.safetensors " * 3
    console.out().print(command)
    table = Table("name", "value")
    table.add_row("a " * 60, "b")
    console.out().print(table)
    lines = shown.getvalue().splitlines()
    assert lines[0].strip() == command.strip()
    assert max(map(len, map(_plain, lines[1:]))) <= 40


def _plain(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", line)
