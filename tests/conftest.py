"""Fixtures that more than one test module uses; one thread a worker, because workers with two wait for each other."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the processes that tests start

from collections.abc import Iterator

import figures
import pytest
import tiny
import torch
from filelock import FileLock

from mnistgen import fit
from mnistgen.data import Dataset, data_folder, load_data
from mnistgen.errors import DataError
from mnistgen.evaluator import Classifier, build_classifier, load_classifier, save_classifier

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    """The real training images; a test that asks for them is skipped where MNIST is not on disk."""
    try:
        return load_data("mnist", "train", download=False)
    except DataError as error:
        if (data_folder() / "MNIST" / "raw").is_dir():
            raise
        pytest.skip(f"real MNIST is not on disk: {error}")


@pytest.fixture(scope="session")
def knows_strokes(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """A small network that has learnt the strokes of `tiny.py`: one worker trains it for all."""
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "knows-strokes.safetensors"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            data = Dataset(*tiny.strokes(2000, 1), 10, "strokes", "train")
            *_, last = fit(build_classifier("lenet", seed=0), data, steps=150, seed=0)
            assert isinstance(last.ema, Classifier)
            save_classifier(path, last.ema)
    return load_classifier(path)


@pytest.fixture(autouse=True, scope="session")
def bare_figures() -> Iterator[None]:
    """Figures are saved without their axes, but in tests that ask for `whole_figures`."""
    with figures.bare():
        yield


@pytest.fixture
def whole_figures() -> Iterator[None]:
    with figures.whole():
        yield
