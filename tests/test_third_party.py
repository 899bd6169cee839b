"""The plugin host from outside: distributions of their own, installed into a folder of their own.

Processes see what this one has (mnistgen, torch) and, first on their path, what pip installs there from folders with a
pyproject.toml, without a network.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command import Process

from mnistgen.cli.new import write_plugin
from mnistgen.errors import MnistgenError, UsageError
from mnistgen.testing import synthetic_digits

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "{version}"

[project.entry-points."mnistgen.models"]
{points}

[tool.hatch.build.targets.wheel]
packages = ["{package}"]
"""

TINY = '''
"""An autoencoder of one layer, with a prior of noise around the class."""

import torch
from mnistgen import BaseConfig, GenerativeModel, Loss
from torch import nn


class Tiny(GenerativeModel):
    """A picture for each class, brighter or darker."""

    family = "template"
    conditional = True
    Config = BaseConfig

    def __init__(self, config, num_classes=10):
        super().__init__(config, num_classes)
        self.pictures = nn.Parameter(torch.zeros(num_classes, 784))

    def losses(self, x, y):
        yield Loss((self.pictures[y].tanh() - x.flatten(1)).square().mean() * 10, self)

    def sample(self, y, *, noise):
        brightness = 0.8 + 0.2 * noise.uniform(1)
        return (brightness * (self.pictures[y].tanh() + 1) - 1).view(-1, 1, 28, 28)

    def optimizers(self):
        return {self: torch.optim.Adam(self.parameters(), lr=0.05)}
'''


class Environment:
    """A folder for packages, and processes that have it on their path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = folder / "site"

    def install(self, *sources: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--target", self.site]
        offline = ["--no-index", "--no-deps", "--no-build-isolation"]
        done = subprocess.run([*pip, *offline, *sources], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def write(self, name: str, package: str, source: str, version: str = "1.0", **models: str) -> Path:
        """A distribution of one package, ready to be installed."""
        folder = self.folder / name
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text(source)
        points = "\n".join(f'{model} = "{package}:{attribute}"' for model, attribute in models.items())
        (folder / "pyproject.toml").write_text(
            PYPROJECT.format(name=name, version=version, points=points, package=package)
        )
        return folder

    def mnistgen(self, *arguments: str, code: int = 0) -> str:
        """What `mnistgen ...` prints in a process of its own."""
        text, ended = Process(self.folder, *arguments).wait(300)
        assert ended == code, text
        assert "Traceback" not in text, text
        return text

    def python(self, *arguments: str, folder: Path) -> str:
        """What a Python prints that is started in `folder`."""
        path = os.pathsep.join([str(self.site), *(str(Path(path).resolve()) for path in sys.path if path)])
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with a plugin that works, one written by `mnistgen new`, and three that do not get along."""
    environment = Environment(tmp_path_factory.mktemp("third_party"))
    write = environment.write
    write_plugin("brand-new", environment.folder / "new")
    environment.install(
        write("tiny-models", "their_tiny", TINY, "0.7", **{"their-tiny": "Tiny"}),
        write("first-models", "their_first", TINY, "1.1", **{"their-twin": "Tiny", "their-single": "Tiny"}),
        write("second-models", "their_second", TINY, "2.2", **{"their-twin": "Tiny"}),
        write("broken-models", "their_broken", "import a_module_that_nobody_has\n" + TINY, **{"their-broken": "Tiny"}),
        environment.folder / "new",
    )
    return environment


def rows(output: str) -> dict[str, list[str]]:
    return {line.split("\t")[0]: line.split("\t") for line in output.splitlines()}


def test_a_third_party_model_is_listed_checked_trained_and_sampled(environment: Environment, tmp_path: Path) -> None:
    listed = rows(environment.python("-m", "mnistgen", "models", folder=tmp_path))
    assert listed["their-tiny"][1:] == ["template", "A picture for each class, brighter or darker.", "tiny-models 0.7"]

    assert "0 broken" in environment.mnistgen("check", "their-tiny")

    data = synthetic_digits(200)
    np.savez(tmp_path / "squares.npz", images=data.images[:, 0].numpy(), labels=data.labels.numpy())
    train = ["train", "their-tiny", "--data", str(tmp_path / "squares.npz"), "--steps", "60", "--device", "cpu"]
    environment.mnistgen(*train, "--out", str(tmp_path / "run"), "--samples", str(tmp_path / "pictures"), "--quiet")

    drawn = tmp_path / "drawn.npz"
    sample = ["sample", str(tmp_path / "run"), "--device", "cpu"]
    environment.mnistgen(*sample, "--digits", "0-9", "--count", "40", "--out", str(drawn))
    with np.load(drawn) as arrays:
        images, labels = torch.from_numpy(arrays["images"]).reshape(40, -1).float(), arrays["labels"].tolist()
    assert sorted(labels) == sorted(list(range(10)) * 4)
    means = torch.stack([data.images[data.labels == k].float().mean(0).flatten() for k in range(10)])
    assert torch.cdist(images, means).argmin(1).tolist() == labels


def test_what_new_writes_is_found_and_passes_the_quick_check(environment: Environment) -> None:
    listed = rows(environment.mnistgen("models"))
    assert listed["brand-new"][3] == "mnistgen-brand-new 0.1.0"
    assert "0 broken" in environment.mnistgen("check", "brand-new", "--quick")


@pytest.mark.slow
def test_what_new_writes_passes_its_own_test(environment: Environment) -> None:
    """The whole check."""
    text = environment.python("-m", "pytest", "-q", "-p", "no:cacheprovider", ".", folder=environment.folder / "new")
    assert "1 passed" in text


def test_two_distributions_of_one_name_are_both_named(environment: Environment) -> None:
    assert "first-models 1.1, second-models 2.2" in environment.mnistgen("models")
    error = environment.mnistgen("check", "their-twin", code=1)
    assert "'their-twin' is claimed by first-models 1.1" in error
    assert "second-models 2.2" in error
    loaded = rows(environment.mnistgen("models", "--load", code=1))
    assert loaded["their-twin"][-1] == "no"
    assert loaded["their-single"][-1] == "yes"


def test_a_failing_import_is_shown_with_its_distribution_and_spoils_nothing(environment: Environment) -> None:
    assert rows(environment.mnistgen("models"))["their-broken"][3] == "broken-models 1.0"
    reason = "No module named 'a_module_that_nobody_has'"
    loaded = rows(environment.mnistgen("models", "--load", code=1))
    assert reason in loaded["their-broken"][2]
    assert loaded["their-broken"][3:] == ["broken-models 1.0", "no"]
    assert loaded["their-tiny"][-1] == "yes"
    error = environment.mnistgen("train", "their-broken", code=1)
    assert "broken-models 1.0" in error
    assert reason in error


def test_new_refuses_a_name_that_is_taken_or_impossible(environment: Environment, tmp_path: Path) -> None:
    error = environment.mnistgen("new", "their-tiny", "--out", str(tmp_path / "out"), code=2)
    assert "'their-tiny' already, of tiny-models 0.7" in error
    for name in ("Vae", "a b", "1st", "../up", "none", "plugins", "ends-", ""):
        with pytest.raises(UsageError):
            write_plugin(name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_new_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("kept")
    with pytest.raises(MnistgenError, match="exists already"):
        write_plugin("fresh-model", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
