"""The scores that train a classifier, on images small and plain enough to learn in a few steps."""

import dataclasses
import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from tiny import blobs
from torch import Tensor

from mnistgen import Dataset, UsageError
from mnistgen.data.binarised import threshold
from mnistgen.evaluator import Classifier, build_classifier, wilson_interval
from mnistgen.scoring import classifiers
from mnistgen.scoring.classifiers import (
    CAS,
    TwoSampleTest,
    classification_accuracy_score,
    distinguish,
    two_sample,
)

RANGES = ((3, 16), (3, 16), (4, 9), (150, 255))  # a square's row, column, size and shade


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a quarter of the time: what there is to learn here is learnt from few images."""
    monkeypatch.setitem(classifiers.RECIPE, "batch_size", 32)


def squares(n: int, seed: int) -> Tensor:
    """Bright squares of random places, sizes and shades on black, (n, 1, 28, 28) uint8."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(n, 1, 28, 28, dtype=torch.uint8)
    for image in images:
        row, column, size, shade = (int(torch.randint(*r, (1,), generator=generator)) for r in RANGES)
        image[:, row : row + size, column : column + size] = shade
    return images


def hazy(images: Tensor, seed: int = 0) -> Tensor:
    """The images with 1, 2 or 3 where they are black."""
    haze = torch.randint(1, 4, images.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return torch.where(images == 0, haze, images)


def numbered(n: int, first: int) -> Tensor:
    """Images that carry their own number, in two pixels."""
    images = torch.zeros(n, 1, 28, 28, dtype=torch.uint8)
    numbers = torch.arange(first, first + n)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = (numbers // 256).to(torch.uint8), (numbers % 256).to(torch.uint8)
    return images


def numbers(images: Tensor) -> list[int]:
    return (images[:, 0, 0, 0].long() * 256 + images[:, 0, 0, 1].long()).tolist()


@dataclass
class Spy:
    """Stands for the training: notes the data, and returns an untrained network."""

    trained: list[Dataset]

    def train(self, what: str, model: Classifier, data: Dataset, *rest: object) -> Classifier:
        self.trained.append(data)
        return build_classifier("logistic", data.num_classes)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Dataset], list[Dataset]]:
    """Datasets trained on, and datasets classified, in order."""
    seen: list[Dataset] = []
    spy, evaluate = Spy([]), classifiers.evaluate

    def watched(model: Classifier, data: Dataset) -> Any:
        seen.append(data)
        return evaluate(model, data)

    monkeypatch.setattr(classifiers, "_train", spy.train)
    monkeypatch.setattr(classifiers, "evaluate", watched)
    return spy.trained, seen


# The two-sample test.


@pytest.mark.slow
def test_a_haze_is_told_from_black_and_the_binarised_view_is_blind_to_it() -> None:
    clean, real, control = (squares(400, seed) for seed in range(3))
    result = two_sample(hazy(clean), real, control, steps=40)
    assert result.as_is.accuracy > 0.95
    assert result.as_is.interval[0] > 0.9
    for alike in (result.as_is.control_accuracy, result.binarised.accuracy, result.binarised.control_accuracy):
        assert 0.34 < alike < 0.66  # four standard deviations of 160 throws of a coin
    assert result.as_is.n == result.binarised.n == 160
    assert result.as_is.n_train == 640
    without = two_sample(clean, real, control, steps=40)
    assert without.binarised == result.binarised
    assert 0.34 < without.as_is.accuracy < 0.66


@pytest.mark.slow
def test_another_shape_is_told_in_both_views() -> None:
    real, control = squares(300, 1), squares(300, 2)
    wide = squares(300, 3)
    wide = torch.maximum(wide, wide.roll(6, 3))
    result = two_sample(wide, real, control, steps=60)
    for view in (result.as_is, result.binarised):
        assert view.accuracy > 0.9
        assert 0.3 < view.control_accuracy < 0.7


def test_what_is_trained_on_is_not_held_out(spy: tuple[list[Dataset], list[Dataset]]) -> None:
    trained, held_out = spy
    sides = {"samples": numbered(150, 0), "real": numbered(131, 1000), "control": numbered(200, 2000)}
    result = two_sample(**sides, seed=3)
    assert (result.as_is.n, result.as_is.n_train) == (result.binarised.n, result.binarised.n_train) == (52, 210)
    firsts = [0, 2000]
    for test, (training, rest) in enumerate(zip(trained[:2], held_out[:2], strict=True)):
        for data in (training, rest):
            half = len(data) // 2
            assert data.labels.tolist() == [0] * half + [1] * half
            assert {n // 1000 for n in numbers(data.images[:half])} == {firsts[test] // 1000}
            assert {n // 1000 for n in numbers(data.images[half:])} == {1}
        assert len(set(numbers(training.images)) | set(numbers(rest.images))) == 262
    assert numbers(trained[0].images[105:]) == numbers(trained[1].images[105:])  # the same real images both times
    assert numbers(trained[0].images[:105]) != sorted(numbers(trained[0].images[:105]))
    for plain, binarised in zip(trained[:2] + held_out[:2], trained[2:] + held_out[2:], strict=True):
        assert torch.equal(threshold(plain.images), binarised.images)


def test_a_network_that_cannot_tell_scores_one_half(
    spy: tuple[list[Dataset], list[Dataset]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def always_real(what: str, model: Classifier, data: Dataset, *rest: object) -> Classifier:
        model = build_classifier("logistic", 2)
        with torch.no_grad():
            model.head.weight.zero_()  # type: ignore[operator, union-attr]
            model.head.bias.copy_(torch.tensor([0.0, 1.0]))  # type: ignore[operator, union-attr]
        return model

    monkeypatch.setattr(classifiers, "_train", always_real)
    result = two_sample(squares(100, 0), squares(107, 1), squares(110, 2))
    assert result.as_is.accuracy == result.as_is.control_accuracy == 0.5
    assert result.as_is.interval == wilson_interval(20, 40)


def test_the_control_does_not_hang_on_the_samples(spy: tuple[list[Dataset], list[Dataset]]) -> None:
    trained, _ = spy
    real, control = numbered(120, 1000), numbered(140, 2000)
    two_sample(numbered(130, 0), real, control, seed=1)
    two_sample(numbered(170, 5000), real, control, seed=1)
    two_sample(numbered(130, 0), real, control, seed=2)
    first, second, other = (trained[i].images for i in (1, 5, 9))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_threshold() -> None:
    assert threshold(torch.tensor([0, 1, 127, 128, 255], dtype=torch.uint8)).tolist() == [0, 0, 0, 255, 255]


# The classification accuracy score.


def shuffled(data: Dataset) -> Dataset:
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    return replace(data, labels=data.labels[order])


@pytest.mark.slow
def test_right_labels_teach_and_shuffled_ones_do_not() -> None:
    real, test = blobs(160, seed=1), blobs(200, seed=2)
    result = classification_accuracy_score(blobs(120, seed=3), real, test, steps=20)
    assert result.accuracy > 0.95
    assert result.interval[0] > 0.9
    assert result.real_accuracy > 0.95
    assert (result.n, result.n_test) == (120, 200)
    wrong = classification_accuracy_score(shuffled(blobs(160, seed=3)), real, test, steps=20)
    assert wrong.accuracy < 0.6  # one of four classes by luck; whole classes go right or wrong together
    assert wrong.real_accuracy > 0.95


def test_a_class_that_is_missing_is_never_read() -> None:
    samples = blobs(200, seed=3)
    result = classification_accuracy_score(
        samples.subset(samples.labels != 2), blobs(200, seed=1), blobs(100), steps=20
    )
    assert result.accuracy == pytest.approx(0.75, abs=0.05)
    assert result.real_accuracy > 0.95


def test_both_networks_learn_from_equally_many_images(spy: tuple[list[Dataset], list[Dataset]]) -> None:
    trained, tested = spy
    test = blobs(110)

    def data(n: int, first: int) -> Dataset:
        return Dataset(numbered(n, first), torch.arange(n) % 4, 4, "numbered", "train")

    for ours, theirs in ((150, 131), (120, 300)):
        result = classification_accuracy_score(data(ours, 0), data(theirs, 1000), test, seed=2)
        samples, real = trained[-2:]
        assert result.n == len(samples) == len(real) == min(ours, theirs)
        for subset, first in ((samples, 0), (real, 1000)):
            found = numbers(subset.images)
            assert len(set(found)) == len(found)
            assert found != sorted(found)
            assert subset.labels.tolist() == [(number - first) % 4 for number in found]
    result = classification_accuracy_score(data(150, 0), data(131, 1000), test, seed=2, equal=False)
    assert (result.n, result.n_real) == (150, 131) == tuple(map(len, trained[-2:]))
    assert all(each is test for each in tested)


def test_samples_need_not_be_a_dataset(spy: tuple[list[Dataset], list[Dataset]]) -> None:
    data, test = blobs(120), blobs(100)
    plain = classification_accuracy_score((data.images, data.labels), data, test)
    assert plain == classification_accuracy_score(data, data, test)


# Both.


def run_two_sample(steps: int, seed: int = 0, **rest: Any) -> TwoSampleTest:
    return two_sample(squares(120, 1), squares(120, 2), squares(120, 3), steps=steps, seed=seed, **rest)


def run_cas(steps: int, seed: int = 0, **rest: Any) -> CAS:
    """With nothing to learn, so that the accuracies are luck."""
    data = [Dataset(squares(120, i), torch.arange(120) % 4, 4, "squares", "train") for i in range(3)]
    return classification_accuracy_score(*data, steps=steps, seed=seed, **rest)


@pytest.mark.parametrize("score", [run_two_sample, run_cas])
def test_the_seed_decides(score: Any) -> None:
    torch.manual_seed(1)
    first = score(4)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert score(4) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert score(4, seed=1) != first


def test_numbers_for_json(spy: tuple[list[Dataset], list[Dataset]]) -> None:
    test = run_two_sample(1)
    found = json.loads(json.dumps(test.to_dict()))
    assert set(found) == {"as_is", "binarised"}
    assert found["as_is"]["interval_95"] == list(test.as_is.interval)
    assert found["binarised"]["control_accuracy"] == test.binarised.control_accuracy
    cas = run_cas(1)
    found = json.loads(json.dumps(cas.to_dict()))
    assert found["real_interval_95"] == list(cas.real_interval)
    assert (found["n"], found["n_test"]) == (120, 120)


def test_the_length_of_training_is_fixed_and_reported() -> None:
    calls: list[tuple[str, float]] = []

    def progress(what: str, share: float) -> None:
        calls.append((what, share))

    for n in (100, 200):
        calls.clear()
        classification_accuracy_score(blobs(n), blobs(n), blobs(100), steps=3, progress=progress)
        assert [share for _, share in calls] == pytest.approx([1 / 3, 2 / 3, 1] * 2)
        assert len({what for what, _ in calls}) == 2
    calls.clear()
    run_two_sample(2, progress=progress)
    assert [share for _, share in calls] == [0.5, 1] * 4
    assert len({what for what, _ in calls}) == 4


def test_the_recipe_says_every_field_and_distorts_nothing() -> None:
    """Else a change of the evaluators' recipe would move the scores."""
    config = build_classifier("cnn", **classifiers.RECIPE).config
    assert set(classifiers.RECIPE) == {field.name for field in dataclasses.fields(config)} - {"epochs"}
    assert {config.rotation, config.zoom, config.shear, config.translation, config.elastic} == {0.0}


def test_grey_levels_are_categories() -> None:
    """That ink is 254 and not 255 is seen, though no eye would."""
    real, samples = (torch.where(squares(150, seed) > 0, level, 0).byte() for seed, level in ((1, 255), (2, 254)))
    assert distinguish(samples, real, steps=40).accuracy > 0.9


@pytest.mark.parametrize("side", ["samples", "real", "control"])
@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.zeros(99, 1, 28, 28, dtype=torch.uint8), "too few images, 99, among the {}"),
        (torch.zeros(100, 1, 28, 28), "{} are .* float32; .*to_uint8"),
        (torch.zeros(100, 28, 28, dtype=torch.uint8), r"{} are \(100, 28, 28\)"),
        (torch.zeros(0, 1, 28, 28, dtype=torch.uint8), "too few images, 0, among the {}"),
    ],
)
def test_images_that_cannot_be_compared(side: str, images: Tensor, says: str) -> None:
    sides = {name: squares(100, 0) for name in ("samples", "real", "control")} | {side: images}
    name = "samples" if side == "samples" else f"{side} images"
    with pytest.raises(UsageError, match=says.format(name)):
        two_sample(**sides, steps=1)


GOOD = blobs(100)


@pytest.mark.parametrize(
    ("samples", "real", "test", "says"),
    [
        ((GOOD.images, None), GOOD, GOOD, "no labels to learn from; give samples of a conditional model"),
        (blobs(99), GOOD, GOOD, "too few images, 99, among the samples"),
        (GOOD, blobs(99), GOOD, "too few images, 99, among the real images"),
        (GOOD, GOOD, blobs(99), "too few images, 99, among the test images"),
        (blobs(100, 3), GOOD, GOOD, "samples have 3 classes and the test images 4"),
        (GOOD, blobs(100, 3), GOOD, "real images have 3 classes and the test images 4"),
    ],
)
def test_samples_that_cannot_teach(samples: Any, real: Dataset, test: Dataset, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        classification_accuracy_score(samples, real, test, steps=1)


def test_no_steps() -> None:
    with pytest.raises(UsageError, match="steps is 0"):
        run_cas(0)
