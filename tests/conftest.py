"""Fixtures that more than one test module uses; one thread a worker, because workers with two wait for each other."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the processes that tests start

from collections.abc import Iterator

import figures
import pytest
import tiny
import torch

from mnistgen import fit
from mnistgen.data import Dataset, data_folder, load_data
from mnistgen.errors import DataError
from mnistgen.evaluator import Classifier, build_classifier

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
def knows_strokes() -> Classifier:
    """A small network that has learnt the strokes of `tiny.py`."""
    data = Dataset(*tiny.strokes(2000, 1), 10, "strokes", "train")
    *_, last = fit(build_classifier("lenet", seed=0), data, steps=150, seed=0)
    assert isinstance(last.ema, Classifier)
    return last.ema.eval()


@pytest.fixture(autouse=True, scope="session")
def bare_figures() -> Iterator[None]:
    """Figures are saved without their axes, but in tests that ask for `whole_figures`."""
    with figures.bare():
        yield


@pytest.fixture
def whole_figures() -> Iterator[None]:
    with figures.whole():
        yield
