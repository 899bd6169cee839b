"""The shipped checkpoints are as good as their records say, so that a change that spoils samples is seen.

The records are of the same number of samples and the same seed: what differs is rounding, on another processor. So the
tolerance is the 95% interval that the record has for other samples.
"""

import hashlib
import math
import tomllib
from pathlib import Path

import pytest
import torch

from mnistgen import MnistgenError, load, published, sample
from mnistgen.evaluator import extract, load_evaluator
from mnistgen.metrics import frechet_distance, moments
from mnistgen.scoring import Scorer, class_counts
from mnistgen.scoring.evaluators import PENULTIMATE

QUICK = "dcgan"  # the one that samples fastest
LATE = {"ddpm", "edm"}  # take minutes
RECORD = published.record("scores-mnist-1000")


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    """Without the training images, among which memorised ones would be looked for: these are other tests' subject."""
    return Scorer("mnist", data_dir=tmp_path_factory.mktemp("no-data"), device="cpu")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in LATE else pytest.mark.slow) for name in RECORD]
)
def test_samples_are_as_good_as_published(name: str, scorer: Scorer) -> None:
    record = RECORD[name]
    score = scorer.score(published.shipped_checkpoints()[name], n=record["n"], seed=record["seed"])
    for network, (low, high) in record["intervals_95"].items():
        assert low <= score.floors_by[network] <= high, network
    share = record["numbers"]["label_agreement"]
    noise = 1.96 * math.sqrt(share * (1 - share) / record["n"])
    assert abs(score.numbers["label_agreement"] - share) <= noise


def test_samples_of_one_are_as_good_as_published_to_evaluator_a(scorer: Scorer) -> None:
    record = RECORD[QUICK]
    reference = scorer.reference.take(record["n"])
    counts = torch.tensor(class_counts(reference.labels, record["n"]))
    images = sample(load(published.shipped_checkpoints()[QUICK]), torch.arange(10).repeat_interleave(counts), seed=0)
    features = extract(load_evaluator("A"), images, layers=["penultimate"])["penultimate"]
    distance = frechet_distance(moments(features), moments(reference.features.by_layer[PENULTIMATE]))
    low, high = record["intervals_95"]["A"]
    assert low <= distance / record["real"]["fid.A.penultimate"] <= high


@pytest.mark.parametrize("record", ["scores-mnist", "scores-mnist-1000", "times-mnist"])
def test_records_are_of_the_checkpoints_that_ship(record: str) -> None:
    shipped = {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in published.shipped_checkpoints().items()
    }
    assert {name: entry["checkpoint_sha256"] for name, entry in published.record(record).items()} == shipped


def test_a_model_is_read_from_its_checkpoint_and_its_records() -> None:
    found = published.published()["dcgan"]
    assert found.headline == max(published.record("scores-mnist")["dcgan"]["floors"].values())
    assert found.columns["an image"] == "0.2 ms"
    assert (found.weights, found.steps) == (1_038_466, 12_891)


@pytest.mark.parametrize("name", ["scores-mnist", "times-mnist"])
def test_the_records_that_are_shown_are_in_the_wheel(name: str) -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    inside = published.RECORDS[0].relative_to(Path(published.__file__).parents[1])
    assert included[f"benchmarks/results/{name}.json"] == f"{inside}/{name}.json"


def test_a_damaged_record_or_checkpoint_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "SHIPPED", [tmp_path])
    monkeypatch.setattr(published, "RECORDS", [tmp_path])
    assert published.published() == {}
    (tmp_path / "new-mnist.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(MnistgenError, match=r"new-mnist\.safetensors: is damaged"):
        published.published()
    (tmp_path / "scores-mnist.json").write_text("{")
    with pytest.raises(MnistgenError, match=r"scores-mnist\.json: is damaged"):
        published.published()
