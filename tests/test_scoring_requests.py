"""Scores on request: the likelihood of real images, and CAS of more samples than are scored."""

import math
from dataclasses import dataclass

import pytest
import torch
from tiny import Tiny, TinyConfig, strokes
from torch import Tensor

from mnistgen import BaseConfig, Dataset, GenerativeModel, Loss, Noise, UsageError
from mnistgen.evaluator import build_classifier
from mnistgen.model import HasLikelihood
from mnistgen.scoring import Evaluators, Scorer
from mnistgen.scoring.classifiers import CAS
from mnistgen.scoring.likelihood import measure_likelihood, unlike
from mnistgen.scoring.reference import of_dataset


@dataclass(frozen=True)
class UniformConfig(BaseConfig):
    """No hyperparameters of its own."""


class Uniform(GenerativeModel, HasLikelihood):
    """Black and white pixels are 2^-c likely each, c = 2 + label, and all grey ones share what is left."""

    Config = UniformConfig
    family, conditional = "test", True
    likelihood, likelihood_of = "exact", "8-bit pixels"

    def losses(self, x: Tensor, y: Tensor):
        yield Loss(-self.log_prob(x, y).mean(), self)

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        return 2 * noise.uniform(1, 28, 28).round() - 1

    def log_prob(self, x: Tensor, y: Tensor, *, noise: Noise | None = None) -> Tensor:
        ends = -(2.0 + y) * math.log(2)
        grey = torch.log((1 - 2 * ends.exp()) / 254)
        black_or_white = (x.abs() > 1 - 1e-6).flatten(1).sum(1)
        return black_or_white * ends + (784 - black_or_white) * grey


def test_bits_and_nats_are_those_of_a_known_distribution() -> None:
    black = torch.zeros(6, 1, 28, 28, dtype=torch.uint8)
    labels = torch.tensor([0, 0, 0, 2, 2, 2])
    found = measure_likelihood(Uniform(UniformConfig()), {"black": (black, labels), "zeros": (black[:2], labels[:2])})
    row = found["rows"]["black"]
    assert (found["kind"], found["of"]) == ("exact", "8-bit pixels")
    assert row["bits_per_dim"] == pytest.approx(3)
    assert row["nats"] == pytest.approx(784 * 3 * math.log(2))
    t_quantile, error = 2.5706, math.sqrt(6 / 5) / math.sqrt(6)  # of 2, 2, 2, 4, 4, 4: t with 5 degrees of freedom
    assert row["bits_per_dim_interval_95"] == pytest.approx([3 - t_quantile * error, 3 + t_quantile * error], abs=1e-3)
    assert found["rows"]["zeros"]["bits_per_dim_interval_95"] == pytest.approx([2, 2])


def test_images_unlike_others_differ_in_what_their_name_says() -> None:
    images, _ = strokes(20)
    found = unlike(images, seed=1)
    assert torch.equal(255 - found["inverted"], images)
    assert not torch.equal(found["shuffled pixels"], images)
    assert torch.equal(found["shuffled pixels"].flatten(1).sort().values, images.flatten(1).sort().values)
    constant = found["constant"].flatten(1)
    assert torch.equal(constant.amin(1), constant.amax(1))
    assert len(constant[:, 0].unique()) > 10
    assert all(torch.equal(a, b) for a, b in zip(found.values(), unlike(images, seed=1).values(), strict=True))


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    evaluators = Evaluators.of({"A": build_classifier("lenet", seed=0).eval()})
    training, test = (Dataset(*strokes(200, seed), 10, "strokes", split) for seed, split in ((0, "train"), (1, "test")))
    return Scorer("strokes", evaluators=evaluators, reference=of_dataset(evaluators, test), training=training)


def test_a_score_has_the_likelihood_of_test_images_training_images_and_others(scorer: Scorer) -> None:
    model = Uniform(UniformConfig())
    score = scorer.score(model, n=200, likelihood=True, likelihood_images=30)
    rows = score.details["likelihood"]["rows"]
    assert {"strokes test", "training images", "inverted", "shuffled pixels", "constant"} <= set(rows)
    assert rows["strokes test"]["n"] == 30
    assert rows["shuffled pixels"]["nats"] == pytest.approx(rows["strokes test"]["nats"]), "histograms are the same"
    assert score.numbers["bits_per_dim"] == rows["strokes test"]["bits_per_dim"]
    assert score.numbers["nll"] == rows["strokes test"]["nats"]


def test_cas_draws_more_samples_than_are_scored(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def learned(samples: Dataset, real: Dataset, test: Dataset, **rest: object) -> CAS:
        seen.update(samples=len(samples), real=len(real), equal=rest["equal"])
        return CAS(0.5, (0.4, 0.6), 0.9, (0.8, 1.0), len(samples), len(real), len(test))

    monkeypatch.setattr("mnistgen.scoring.scorer.classification_accuracy_score", learned)
    scorer.score(Uniform(UniformConfig()), n=100, cas=True)
    assert seen == {"samples": 100, "real": 100, "equal": True}
    scorer.score(Uniform(UniformConfig()), n=100, cas=True, cas_images=300)
    assert seen == {"samples": 300, "real": 200, "equal": False}


def test_what_has_no_likelihood_is_refused_before_anything_is_drawn(scorer: Scorer) -> None:
    with pytest.raises(UsageError, match="no model, and has no likelihood"):
        scorer.score(strokes(100), likelihood=True)
    with pytest.raises(UsageError, match="Tiny has no likelihood"):
        scorer.score(Tiny(TinyConfig()), likelihood=True)
