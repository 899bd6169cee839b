"""Listing reads metadata and source; a bad plugin is shown for what it is and spoils no other."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mnistgen import GenerativeModel, PluginError, UsageError, list_models, published, registry
from mnistgen.cli import main
from mnistgen.registry import model_class

MODEL = '''
from mnistgen import GenerativeModel

class Good(GenerativeModel):
    """Draws nothing much.

    And more about that.
    """

    family = "test"
    conditional = False

    def losses(self, x, y):
        yield from ()

    def sample(self, y, *, noise):
        return noise.uniform(1, 28, 28)

class Variant(Good):
    """Takes its family from its base."""

class Half(GenerativeModel):
    family = "te" + "st"
    losses = Good.losses

class Unrelated:
    """Is no model."""
'''


class Site:
    """A folder on sys.path with distributions in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def install(self, name: str, version: str = "1.0", **models: str) -> None:
        folder = self.path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        points = "\n".join(f"{model} = {value}" for model, value in models.items())
        (folder / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{points}\n")

    def write(self, path: str, text: str) -> None:
        (self.path / path).parent.mkdir(parents=True, exist_ok=True)
        (self.path / path).write_text(text)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    site = Site(tmp_path / "site")
    monkeypatch.syspath_prepend(str(site.path))
    site.write("regtest/__init__.py", "from .deep.models import Good as Best\n")
    site.write("regtest/deep/models.py", MODEL)  # deep/ has no __init__.py
    yield site
    for name in [name for name in sys.modules if name.split(".")[0] in ("regtest", "regtest_bad")]:
        del sys.modules[name]


def test_an_entry_is_read_from_metadata_and_source(site: Site) -> None:
    site.install("their-models", "2.1", good="regtest.deep.models:Good")
    entry = registry.entries()["good"]
    assert entry == ("good", "their-models", "2.1", "regtest.deep.models:Good", "test", "Draws nothing much.")
    assert "regtest" not in sys.modules


def test_reexports_and_inherited_families_are_followed(site: Site) -> None:
    site.install("theirs", best="regtest:Best", variant="regtest.deep.models:Variant")
    models = registry.entries()
    assert models["best"][4:] == ("test", "Draws nothing much.")
    assert models["variant"][4:] == ("test", "Takes its family from its base.")
    assert "regtest" not in sys.modules


@pytest.mark.parametrize(
    ("value", "source"),
    [
        ("regtest_bad:Model", None),
        ("regtest_bad:Model", "class Model(:"),
        ("regtest_bad:Model", "class Other: pass"),
        ("regtest_bad:Model", "from regtest_bad import Model"),
        ("regtest_bad:Model", "class Model(Model): pass"),
        ("regtest_bad.deep.deeper:Model", ""),
        ("regtest_bad", "class Model: pass"),
        (":Model", ""),
        ("regtest.deep.models:Half", ""),
    ],
)
def test_what_cannot_be_read_is_empty(site: Site, value: str, source: str | None) -> None:
    if source is not None:
        site.write("regtest_bad.py", source)
    site.install("theirs", odd=value, good="regtest.deep.models:Good")
    models = registry.entries()
    assert models["odd"][4:] == ("", "")
    assert models["good"].family == "test"
    with pytest.raises(PluginError, match=r"theirs 1\.0"):
        model_class("odd")


def test_a_class_is_imported_and_known_by_its_name(site: Site) -> None:
    site.install("theirs", good="regtest.deep.models:Good", best="regtest:Best")
    good = model_class("good")
    assert issubclass(good, GenerativeModel)
    entry = registry.entry_of(good)
    assert entry is not None
    # The first by name; importing regtest.deep imports regtest.
    assert (entry.name, entry.source) == ("best", "theirs 1.0")
    assert registry.entry_of(GenerativeModel) is None


def test_an_unknown_name_suggests_the_nearest(site: Site) -> None:
    site.install("theirs", goodness="regtest.deep.models:Good")
    with pytest.raises(UsageError, match=r"'godness'.*Did you mean 'goodness'"):
        model_class("godness")


def test_two_claims_to_a_name_are_an_error_of_that_name_only(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("ours", twin="regtest.deep.models:Good", single="regtest.deep.models:Good")
    site.install("theirs", "3", twin="regtest.deep.models:Variant")
    with pytest.raises(PluginError, match=r"'twin' is claimed by ours 1\.0 .* and theirs 3 "):
        model_class("twin")
    assert "twin" not in list_models()
    assert model_class("single").__name__ == "Good"
    assert main(["models"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("twin\t"))
    assert "ours 1.0" in line
    assert "theirs 3" in line


@pytest.mark.parametrize(
    "name", ["../../x", "/tmp/x", "", "a/b", "a\x1b[31mb", ".hidden", "x" * 65, "a:b", "caf\u00e9"]
)
def test_a_name_that_cannot_name_a_folder_is_shown_as_broken(
    site: Site, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    site.install("theirs", "3", **{name: "regtest.deep.models:Good"}, single="regtest.deep.models:Good")
    assert name not in list_models()
    with pytest.raises(PluginError, match=r"theirs 3 registers 'regtest\.deep\.models:Good' as .*cannot name a model"):
        model_class(name)
    assert model_class("single").__name__ == "Good"
    assert main(["models", "--load"]) == 1
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[3:] for row in rows if row[0] == ascii(name)] == [["theirs 3", "no"]]
    assert main(["train", name, "--steps", "1"]) in (1, 2)


def test_one_distribution_found_twice_is_no_clash(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install("theirs", good="regtest.deep.models:Good")
    second = Site(tmp_path / "second")
    second.install("theirs", good="regtest.deep.models:Good")
    monkeypatch.syspath_prepend(str(second.path))
    assert "good" in list_models()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit('bye')", "SystemExit: bye"),
        ("raise BaseException('rude')", "BaseException: rude"),
        ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", "E: its text cannot be printed"),
        ("class Other: pass", "AttributeError"),
        ("class Model: pass", "not a subclass of mnistgen.GenerativeModel"),
        ("from mnistgen import GenerativeModel as Model", "abstract; it has still to define losses, sample"),
        ("Model = 3", "not a subclass"),
    ],
)
def test_a_plugin_that_fails_is_shown_and_spoils_no_other(
    site: Site, source: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    site.write("regtest_bad.py", source)
    site.install("their-bad-models", "0.3", bad="regtest_bad:Model")
    site.install("theirs", good="regtest.deep.models:Good")
    with pytest.raises(PluginError, match=r"their-bad-models 0\.3") as caught:
        model_class("bad")
    assert message in str(caught.value)

    assert main(["models"]) == 0
    assert "bad\t" in capsys.readouterr().out
    assert main(["models", "--load"]) == 1
    rows = {line.split("\t")[0]: line.split("\t") for line in capsys.readouterr().out.splitlines()}
    assert message in rows["bad"][2]
    assert rows["bad"][3:] == ["their-bad-models 0.3", "no"]
    assert rows["good"] == ["good", "test", "Draws nothing much.", "theirs 1.0", "yes"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("entry_points.txt", b"[mnistgen.models]\nbad = \xff\xfe:X\n", "UnicodeDecodeError"),
        ("entry_points.txt", b"[mnistgen.models]\nbad regtest:Best\n", "Error"),
        ("METADATA", b"Name: \xff\xfe\n", "UnicodeDecodeError"),
    ],
)
def test_a_damaged_distribution_is_shown_and_spoils_no_other(
    site: Site, file: str, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    site.install("theirs", good="regtest.deep.models:Good")
    site.install("damaged", bad="regtest.deep.models:Good")
    (site.path / "damaged-1.0.dist-info" / file).write_bytes(content)
    assert model_class("good").__name__ == "Good"
    with pytest.raises(UsageError, match="no model 'bad'"):
        model_class("bad")
    assert main(["models"]) == 0
    rows = {line.split("\t")[-1]: line.split("\t") for line in capsys.readouterr().out.splitlines()}
    assert rows["theirs 1.0"][0] == "good"
    assert message in rows["damaged-1.0.dist-info"][2]
    assert main(["models", "--load"]) == 1


def test_an_interrupt_while_a_plugin_is_imported_is_the_users(site: Site) -> None:
    site.write("regtest_bad.py", "raise KeyboardInterrupt")
    site.install("theirs", bad="regtest_bad:Model")
    with pytest.raises(KeyboardInterrupt):
        model_class("bad")


def test_a_module_whose_attributes_raise_hides_no_other(site: Site) -> None:
    site.write("regtest_bad.py", "def __getattr__(name): raise RuntimeError(name)")
    site.install("theirs", abad="regtest_bad:Model", good="regtest.deep.models:Good")
    with pytest.raises(PluginError, match="RuntimeError"):
        model_class("abad")
    entry = registry.entry_of(model_class("good"))
    assert entry is not None
    assert entry.name == "good"


def test_a_long_description_is_not_cut_when_piped(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    summary = "[bold] " + "long " * 100 + "end."
    site.write("regtest_bad.py", f'class Model:\n    """{summary}"""\n')
    site.install("theirs", wordy="regtest_bad:Model")
    main(["models"])
    assert f"wordy\t\t{summary}\ttheirs 1.0\n" in capsys.readouterr().out


def test_the_table_of_a_terminal_shows_every_model(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("theirs", good="regtest.deep.models:Good")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    for word in ("description", "good", "Draws nothing much.", "theirs"):
        assert word in text


@pytest.mark.parametrize(
    ("width", "shown", "left_out"),
    [
        (200, ("2016", "1.04 M", "28 min", "FID / floor", "1.9", "0.2 ms", "mnistgen 0.1.0"), ()),
        (100, ("2016", "FID / floor", "1.9", "gan"), ("0.2 ms", "mnistgen 0.1.0")),
        (50, ("Deep convolutional",), ("2016 ", "FID / floor", "28 min", "0.2 ms")),
    ],
)
def test_the_table_shows_what_is_published_as_far_as_there_is_room(
    width: int,
    shown: tuple[str, ...],
    left_out: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(published, "record", lambda name: RECORDS[name])
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["models"]) == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(len(line) for line in text.splitlines()) <= width
    assert [word for word in shown if word not in text] == []
    assert [word for word in left_out if word in text] == []


RECORDS = {
    "scores-mnist": {"dcgan": {"floors": {"A": 1.75, "B": 1.94}}},
    "times-mnist": {"dcgan": {"milliseconds": 0.2}},
}


@pytest.mark.parametrize("arguments", [["--help"], ["models"], ["models", "--help"], ["--version"], ["new", "--help"]])
def test_what_needs_no_torch_does_not_import_it(arguments: list[str]) -> None:
    code = (
        "import sys; from mnistgen.cli import main; "
        f"assert main({arguments}) == 0; "
        "print('slow:', sorted({'torch', 'numpy', 'mnistgen_plugins', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "slow: []"


def test_the_traceback_of_a_plugins_error_is_there_on_request(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write("regtest_bad.py", "1 / 0")
    site.install("theirs", bad="regtest_bad:Model")
    assert main(["check", "bad"]) == 1
    text = capsys.readouterr().err
    assert "ZeroDivisionError" in text
    assert "MNISTGEN_TRACEBACK=1 shows the traceback" in text
    assert "Traceback" not in text
    monkeypatch.setenv("MNISTGEN_TRACEBACK", "1")
    assert main(["check", "bad"]) == 1
    assert 'regtest_bad.py", line 1' in capsys.readouterr().err
