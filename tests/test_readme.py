"""What README and docs say is so: commands, code, links, pictures, and tables that are those of the records."""

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from mnistgen import Dataset, list_models
from mnistgen.cli import COMMANDS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CI = ROOT / ".ci" / "run"
LONGEST = 120  # lines of the README
MADE = ROOT / "docs" / "models"  # when the docs are built
DOCS = [path for path in sorted((ROOT / "docs").rglob("*.md")) if path.parent != MADE]
PAGES = [README, ROOT / "checkpoints" / "README.md", *DOCS]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_short() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= LONGEST


@pytest.mark.slow
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
    lines = [line for block in blocks("sh") for line in block.splitlines() if "python -m mnistgen" in line]
    shown = {shlex.split(line.partition("python -m mnistgen")[2], comments=True)[0] for line in lines}
    assert shown == set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_linked_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    linked = re.findall(
        r"\]\((?!https?:)([^)#]+)[^)]*\)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    )
    for target in linked:
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_are_those_of_the_records(page: Path, tables: ModuleType) -> None:
    text = page.read_text("utf-8")
    assert tables.rendered(text) == text, "run: python benchmarks/tables.py"


def test_every_model_is_in_the_readme() -> None:
    text = README.read_text("utf-8")
    assert [name for name in list_models() if f"| `{name}` |" not in text and name in _shipped()] == []


def _shipped() -> set[str]:
    return {path.stem.removesuffix("-mnist") for path in (ROOT / "checkpoints").glob("*-mnist.safetensors")}
