"""The README's commands and code do what it says."""

import re
import shlex
from pathlib import Path

import pytest

from mnistgen import Dataset
from mnistgen.cli import COMMANDS

README = Path(__file__).parents[1] / "README.md"
CI = Path(__file__).parents[1] / ".ci" / "run"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


def test_the_library_example_runs(mnist: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = (block for block in blocks("python") if "load_data" in block)
    assert "epochs=1" in code
    exec(compile(code.replace("epochs=1", "steps=4"), "README.md", "exec"), {})
    assert {path.name for path in tmp_path.iterdir()} == {"my-vae.safetensors", "year.png"}


def test_ci_installs_as_the_readme_says() -> None:
    install, test = (line for block in blocks("sh") for line in block.splitlines() if line.startswith("pip"))
    ci = CI.read_text("utf-8").replace("pip install -q", "pip install")
    for command in (*install.split(" && ")[:1], *test.split(" && ")):
        assert command in ci


def test_every_command_is_shown_and_exists() -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("python -m mnistgen")]
    shown = {shlex.split(line, comments=True)[3] for line in lines}
    assert shown == set(COMMANDS)


def test_the_pictures_are_there() -> None:
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README.read_text("utf-8")):
        assert (README.parent / picture).is_file(), picture
