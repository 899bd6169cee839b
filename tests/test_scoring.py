"""Scores on images whose faults are known: each shows in the number that is there for it."""

import dataclasses
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from command import mnistgen
from PIL import Image
from tiny import Duel, Tiny, TinyConfig, strokes
from torch import Tensor

import mnistgen as package
from mnistgen import Dataset, integrity, save
from mnistgen.cli import main
from mnistgen.cli.score import _print_several
from mnistgen.data import as_dataset, load_data
from mnistgen.errors import CheckpointNotFoundError, DataError, UsageError
from mnistgen.evaluator import Classifier, build_classifier
from mnistgen.evaluator.weights import FOLDER
from mnistgen.metrics import Replicates
from mnistgen.scoring import (
    Evaluators,
    ImageSource,
    ModelSource,
    Score,
    Scorer,
    difference,
    open_source,
    ranked,
    to_json,
    write_json,
)
from mnistgen.scoring.evaluators import EARLY, PENULTIMATE
from mnistgen.scoring.measure import measure
from mnistgen.scoring.reference import (
    class_counts,
    load_reference,
    of_dataset,
    read_reference,
    read_scales,
    reference_file,
    stratified_indices,
    write_reference,
)
from mnistgen.scoring.scale import blurred, compute_scale, noisy
from mnistgen.scoring.sources import dataset_of

FID = "fid.A.penultimate"
N = 1000


def dataset(n: int, seed: int, split: str) -> Dataset:
    images, labels = strokes(n, seed)
    return Dataset(images, labels, 10, "strokes", split)


@pytest.fixture(scope="module")
def training() -> Dataset:
    return dataset(2000, 1, "train")


@pytest.fixture(scope="module")
def evaluators(knows_strokes: Classifier) -> Evaluators:
    """A small network that knows the strokes, and one that knows nothing."""
    return Evaluators.of({"A": knows_strokes, "random": build_classifier("lenet", seed=1).eval()})


@pytest.fixture(scope="module")
def scorer(evaluators: Evaluators, training: Dataset) -> Scorer:
    return Scorer(
        "strokes", evaluators=evaluators, reference=of_dataset(evaluators, dataset(N, 2, "test")), training=training
    )


@pytest.fixture(scope="module")
def real(scorer: Scorer) -> Score:
    """What other real images get."""
    return scorer.score(strokes(N, 3), name="real")


def score(scorer: Scorer, images: Tensor, labels: Tensor | None) -> Score:
    """Among few training images: whether samples are copies is the subject of other tests."""
    return scorer.score((images, labels), training_images=200)


def numbers(scorer: Scorer, images: Tensor, labels: Tensor) -> dict[str, float]:
    """The distances alone, of 900 images at most: too few for what takes long."""
    return measure(scorer.evaluators.extract(images[:900], labels[:900]), scorer.reference).numbers


# What the numbers see.


@pytest.mark.parametrize("view", [PENULTIMATE, EARLY])
@pytest.mark.parametrize("worse", [lambda x, s: noisy(x, s), lambda x, s: blurred(x, 8 * s)])
def test_fid_rises_with_noise_and_blur(scorer: Scorer, view: object, worse: Callable[[Tensor, float], Tensor]) -> None:
    images, labels = strokes(N, 3)
    values = [numbers(scorer, worse(images, s), labels)[f"fid.{view}"] for s in (0, 0.05, 0.1, 0.2)]
    assert values == sorted(values)
    assert values[-1] > 3 * values[0]


def test_fid_rises_with_class_imbalance(scorer: Scorer) -> None:
    images, labels = strokes(4 * N, 3)
    values = []
    for extra in (0, 200, 400, 800):  # that many more of class 0 in place of the others
        rest = (810 - extra) // 9
        counts = [900 - 9 * rest, *[rest] * 9]
        chosen = stratified_indices(labels.repeat(3), counts, seed=0) % len(images)
        values.append(numbers(scorer, images[chosen], labels[chosen])[FID])
    assert values == sorted(values)
    assert values[-1] > 3 * values[0]


def test_a_copy_of_the_training_set_is_caught(scorer: Scorer, training: Dataset, real: Score) -> None:
    copies = scorer.score(training.subset(torch.arange(N)), name="copies")
    assert copies.numbers["authentic"] == 0
    assert copies.numbers["closer"] == 1
    assert copies.numbers["copying"] < -8  # the least that 50 against 50 a class can give is -8.6
    spread = copies.details["memorisation"]["copying"]["control_spread"]
    assert abs(real.numbers["copying"]) < 5 * spread
    assert abs(real.numbers["closer"] - 0.5) < 0.05
    assert abs(real.numbers["authentic"] - real.numbers["authentic_real"]) < 0.05
    assert copies.strip is not None
    assert torch.equal(copies.strip[:10], copies.strip[10:])  # each beside itself
    assert real.strip is not None
    assert not torch.equal(real.strip[:10], real.strip[10:])


def test_swapped_labels_are_caught(scorer: Scorer, real: Score) -> None:
    images, labels = strokes(N, 3)
    swapped = labels.clone()
    swapped[labels == 3], swapped[labels == 8] = 8, 3
    result = score(scorer, images, swapped)
    assert result.numbers["label_agreement"] < real.numbers["label_agreement"] - 0.18
    assert {alarm["label"] for alarm in result.details["labels"]["alarms"]} == {3, 8}
    confused = [note for note in result.notes if "confused" in note]
    assert len(confused) == 1
    assert "3 as 8 (" in confused[0]
    assert "8 as 3 (" in confused[0]
    classes, before = result.details["per_class_fid"]["classes"], real.details["per_class_fid"]["classes"]
    worse = {label for label in classes if classes[label] > 5 * before[label]}
    assert worse == {"3", "8"}
    assert result.numbers[FID] == real.numbers[FID]  # which knows no labels


def test_a_missing_digit_is_said(scorer: Scorer) -> None:
    images, labels = strokes(N, 3)
    images[labels == 4] = images[labels == 5]
    result = score(scorer, images, labels)
    assert any("Class 4 is missing" in note for note in result.notes)


def test_the_same_to_the_last_digit(scorer: Scorer, real: Score) -> None:
    again = scorer.score(strokes(N, 3), name="real")
    assert again.numbers == real.numbers
    assert again.details == real.details
    assert again.protocol_line == real.protocol_line


def test_real_images_have_no_distance_to_themselves_and_still_no_perfect_recall(scorer: Scorer, real: Score) -> None:
    images = scorer.reference.images
    assert images is not None
    itself = score(scorer, images, scorer.reference.labels)
    for view in (PENULTIMATE, EARLY):
        assert abs(itself.numbers[f"fid.{view}"]) < 1e-5 * real.numbers[f"fid.{view}"]  # rounding
    # two samples of one distribution: the balls leave gaps
    assert 0.5 < real.numbers["recall.A.penultimate"] < 0.99
    assert 0.5 < real.numbers["precision.A.penultimate"] < 0.99


def test_the_scale_has_the_floor_at_its_bottom(scorer: Scorer, training: Dataset) -> None:
    scale = compute_scale(scorer.evaluators, scorer.reference, training, 500, draws=3)
    assert set(scale) == {"floor", "noisy", "blurred", "one class", "uniform noise"}
    best = scale["floor"]
    assert best["draws"] == 3
    for name in (FID, "fid.A.early", "fid.random.penultimate", "class_fid.worst"):
        assert best["spread"][name] > 0
        for row in scale:
            assert row == "floor" or scale[row]["mean"][name] > 2 * best["mean"][name]
    # the network has been trained on the training images, so agreement is that of the reference
    seen = scorer.evaluators.extract(scorer.reference.images).probabilities
    share = float((seen.argmax(1) == scorer.reference.labels).double().mean())
    assert best["mean"]["label_agreement"] == share
    assert scale["one class"]["mean"]["label_agreement"] < 0.2


def test_a_score_stands_beside_the_floor(scorer: Scorer, real: Score) -> None:
    assert set(real.scale) == {"floor"}  # nothing ships for these images; training images are at hand
    assert real.floors == pytest.approx(real.fid / real.scale["floor"]["mean"][FID])
    assert 0.2 < real.floors < 5
    bare = Scorer("strokes", evaluators=scorer.evaluators, reference=scorer.reference)
    alone = bare.score(strokes(N, 3))
    assert alone.scale == {}
    assert alone.floors is None
    assert "floor" in alone.not_measured
    assert "training images are not given" in alone.not_measured["memorisation"]
    assert alone.numbers == {name: x for name, x in real.numbers.items() if name in alone.numbers}


# What is taken.


def test_class_counts_keep_proportions() -> None:
    labels = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    assert class_counts(labels, 10) == [5, 3, 2]
    assert class_counts(labels, 7) == [4, 2, 1]  # 3.5, 2.1, 1.4
    assert sum(class_counts(labels, 1001)) == 1001


def test_part_of_the_reference_is_no_first_part(scorer: Scorer) -> None:
    part = scorer.reference.take(200)
    assert torch.bincount(part.labels).tolist() == [20] * 10
    assert part.images is not None
    assert scorer.reference.images is not None
    whole = scorer.reference.images.flatten(1)
    places = [int((whole == image).all(1).nonzero()[0]) for image in part.images.flatten(1)]
    assert len(set(places)) == 200
    assert 400 < sum(places) / 200 < 600  # all over the file
    assert torch.equal(part.features.by_layer[EARLY], scorer.reference.features.by_layer[EARLY][places])
    again = scorer.reference.take(200)
    assert torch.equal(again.labels, part.labels)


def test_drawing_more_than_there_is() -> None:
    with pytest.raises(DataError, match="There are 5 images of class 1, and 6 are needed"):
        stratified_indices(torch.tensor([0, 1] * 5), [5, 6], seed=0)


def test_a_model_is_asked_for_the_class_counts_of_the_reference(scorer: Scorer) -> None:
    source = open_source(Tiny(TinyConfig(), 10), name="tiny")
    taken = source.take(300, torch.tensor([0] * 5 + list(range(1, 10))), seed=0)
    assert taken.data.labels is not None
    assert torch.bincount(taken.data.labels).tolist()[:2] == [107, 22]
    assert taken.data.images.shape == (300, 1, 28, 28)
    assert torch.equal(
        taken.data.images, source.take(300, torch.tensor([0] * 5 + list(range(1, 10))), seed=0).data.images
    )
    assert taken.class_counts == "as in the reference"


def test_an_unconditional_model_has_no_labels(scorer: Scorer) -> None:
    result = scorer.score(Duel(TinyConfig(), 10), n=200, name="duel", training_images=200)
    assert result.labels is None
    assert "label_agreement" not in result.numbers
    assert "no labels" in result.not_measured["label agreement"]
    assert "no labels" in result.not_measured["per-class FID"]
    assert "mean_confidence" in result.numbers
    assert "KID" in result.not_measured  # 200 are too few for it
    assert "at least 1000" in result.not_measured["KID"]
    assert result.picture().shape == (300, 300)


def test_more_images_than_requested_are_taken_by_class(scorer: Scorer) -> None:
    images, labels = strokes(2 * N, 3)
    source = open_source((images, labels))
    taken = source.take(500, scorer.reference.labels, seed=0)
    assert taken.data.labels is not None
    assert torch.bincount(taken.data.labels).tolist() == [50] * 10
    assert taken.class_counts == "as in the reference"
    few = labels % 2  # no class from 2 on
    taken = open_source((images, few)).take(500, scorer.reference.labels, seed=0)
    assert taken.class_counts == "a random part of the source's"
    assert taken.data.labels is not None
    assert len(taken.data.labels) == 500


def test_other_class_counts_are_said(scorer: Scorer) -> None:
    images, labels = strokes(N, 3)
    keep = (labels != 4) | (torch.arange(N) < N // 2)  # half of a class; without any, it is not compared at all
    assert any("Class counts" in note for note in score(scorer, images[keep], labels[keep]).notes)


# What is refused.


def test_wrong_input(scorer: Scorer) -> None:
    images, labels = strokes(N, 3)
    with pytest.raises(UsageError, match="too few images to score, 99"):
        score(scorer, images[:99], labels[:99])
    with pytest.raises(DataError, match="holds no images"):
        score(scorer, images[:0], labels[:0])
    with pytest.raises(DataError, match="14x14"):
        score(scorer, images[:, :, ::2, ::2], labels)
    with pytest.raises(UsageError, match="label 12, and the evaluator knows 0 to 9"):
        score(scorer, images, labels + 3)
    with pytest.raises(UsageError, match="has 12 classes, and the evaluator knows 10"):
        scorer.score(Tiny(TinyConfig(), 12))
    with pytest.raises(UsageError, match="The reference has no images of class 12"):
        scorer.score((images, labels), classes=[3, 12])
    with pytest.raises(UsageError, match="images has no images of class 8"):
        scorer.score((images[labels == 3], labels[labels == 3]), classes=[3, 8])
    with pytest.raises(UsageError, match="images has no images of class 3"):
        scorer.score((images, None), classes=[3])
    with pytest.raises(UsageError, match="another dataset"):
        of_dataset(scorer.evaluators, Dataset(images, labels, 12, "other", "test"))


def test_a_model_of_some_classes_is_held_against_real_images_of_those(scorer: Scorer) -> None:
    model = Tiny(TinyConfig(), 9)
    model.trained_classes = (3, 8)
    found = scorer.score(model, name="some", training_images=100)
    assert found.labels is not None
    assert found.labels.unique().tolist() == [3, 8]
    assert (found.protocol["n"], found.protocol["reference_n"]) == (200, 200)
    assert found.protocol["reference"] == "strokes test (classes 3, 8)"
    assert "classes 3, 8 alone are held against the 200 real images of those" in " ".join(found.notes)
    assert found.scale["floor"]["draws"] == 5  # one alone, of 200 images, may be ten times another
    assert found.scale["floor"]["spread"][FID] > 0
    model.trained_classes = (3, 12)
    with pytest.raises(UsageError, match="another dataset"):
        scorer.score(model)


def test_labels_of_fewer_classes_are_those_of_the_reference(scorer: Scorer) -> None:
    found = scorer.score(Tiny(TinyConfig(), 3), name="three", training_images=100)
    assert found.protocol["reference"] == "strokes test (classes 0, 1, 2)"
    images, labels = strokes(N, 3)
    named = Dataset.of(images, labels, name="named", class_names=("zero", "eins", *"23456789"))
    named = named.subset(labels < 3)
    names = tuple(f"stroke {label}" for label in range(10))
    with_names = dataclasses.replace(scorer.reference, class_names=names)
    judge = Scorer("strokes", evaluators=scorer.evaluators, reference=with_names, training=scorer.training)
    found = judge.score(named, classes=[0, 1, 2], training_images=100)
    assert any("named-all and in strokes: 0 is zero and stroke 0, 1 is eins and stroke 1, " in x for x in found.notes)


def test_a_file_that_lacks_a_class_gains_nothing_by_it(scorer: Scorer, real: Score) -> None:
    """It may be a generator's that never draws it; who means to leave it out says so."""
    images, labels = strokes(N, 3)
    some = labels != 4
    found = scorer.score((images[some], labels[some]), name="some", training_images=100)
    assert found.fid == numbers(scorer, images[some], labels[some])[FID]
    assert found.fid > 1.5 * real.fid
    assert found.protocol["reference"] == "strokes test"
    assert found.details["per_class_fid"]["missing"] == [4]
    (note,) = [note for note in found.notes if "some has no images of class 4, and is held against all" in note]
    assert note.endswith("--classes 0,1,2,3,5,6,7,8,9")
    alone = scorer.score((images[some], labels[some]), name="some", classes=[3, 8], training_images=100)
    assert (alone.protocol["n"], alone.protocol["reference"]) == (200, "strokes test (classes 3, 8)")
    assert alone.labels is not None
    assert alone.labels.unique().tolist() == [3, 8]
    assert alone.fid < found.fid
    assert not any("has no images" in note for note in alone.notes)


def test_classes_are_called_by_their_names(
    scorer: Scorer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    names = tuple(f"stroke {label}" for label in range(10))
    named = dataclasses.replace(scorer.reference, class_names=names)
    judge = Scorer("strokes", evaluators=scorer.evaluators, reference=named, training=scorer.training)
    images, labels = strokes(N, 3)
    swapped = labels.clone()
    swapped[labels == 3], swapped[labels == 8] = 8, 3
    images[labels == 4] = images[labels == 5]
    monkeypatch.setattr("mnistgen.cli.score.Scorer", lambda *_, **__: judge)
    numpy.savez("swapped.npz", images=images[:, 0].numpy(), labels=swapped.numpy())
    assert main(["score", "swapped.npz", "--classes", "stroke 3, 8,Stroke 4", "--quiet", "--json", "s.json"]) == 0
    text = capsys.readouterr().out
    assert "Classes are confused, with these shares of their images: stroke 4 as stroke 5 (" in text
    assert "else stroke 8 as stroke 3 (" in text.replace("stroke 4 as stroke 5 (100), ", "")
    assert "  worst class (stroke " in text
    assert "predicted   stroke 0: 0, stroke 1: 0" in text
    (about,) = json.loads(Path("s.json").read_text())
    assert about["class_names"] == list(names)
    assert main(["score", "swapped.npz", "--classes", "stroke 12", "--quiet"]) == 2
    assert "stroke 12 is no class of strokes, which has stroke 0, stroke 1" in capsys.readouterr().err


def test_a_model_without_labels_is_scored_by_what_needs_none(scorer: Scorer) -> None:
    model = Tiny(TinyConfig(), 1)
    model.trained_classes = ()
    found = scorer.score(model, n=200, name="none", training_images=100)
    assert found.labels is None
    assert {"fid.A.penultimate", "coverage.A.penultimate"} <= found.numbers.keys()
    assert "label_agreement" not in found.numbers
    assert "no labels" in found.not_measured["label agreement"]


def test_sources_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointNotFoundError, match="DATASET:SPLIT"):
        open_source("nothing-there")
    with pytest.raises(UsageError, match="mnist:train or mnist:test"):
        open_source("mnist")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        open_source(tmp_path / "empty")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match=r"broken\.npz"):
        open_source("broken.npz")


def test_the_dataset_to_hold_sources_against() -> None:
    data = as_dataset(strokes(10))
    digits, clothes, own, none = (ImageSource("x", data, name) for name in ("mnist", "fashion", "mine", ""))
    assert dataset_of([none]) == "mnist"
    assert dataset_of([clothes, none, clothes]) == "fashion"
    assert dataset_of([ImageSource("x", data, "digits")]) == "mnist"
    assert dataset_of([own], by_name=True) == "mine"
    with pytest.raises(UsageError, match=r"several datasets \(fashion, mnist\)"):
        dataset_of([digits, clothes])
    with pytest.raises(UsageError, match="of mine, a custom dataset: name its path with --data"):
        dataset_of([own])


def test_sources_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images, labels = strokes(40)
    folder = tmp_path / "loose"
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / f"{i:03}.png")
    loose = open_source("loose")
    assert isinstance(loose, ImageSource)
    assert loose.data.labels is None
    assert torch.equal(loose.data.images, images)  # as they are, to the last grey level
    numpy.savez("parts.npz", x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9])
    with pytest.raises(UsageError, match="'train' and 'test'"):
        open_source("parts.npz")
    part = open_source("parts.npz:test")
    assert isinstance(part, ImageSource)
    assert (len(part.data), part.name) == (9, "parts-npz-test")
    save(tmp_path / "checkpoints/mine", Tiny(TinyConfig(), 10), dataset=dataset(40, 0, "train"))
    monkeypatch.setattr("mnistgen.scoring.sources.load", lambda path, device: Tiny(TinyConfig(), 10))
    model = open_source("mine")
    assert isinstance(model, ModelSource)
    assert (model.name, model.dataset) == ("mine", "strokes")


# What is written and shipped.


def test_json_holds_everything_best_first(scorer: Scorer, real: Score, tmp_path: Path) -> None:
    images, labels = strokes(N, 3)
    worse = scorer.score((noisy(images), labels), name="worse", training_images=200)
    assert [x.name for x in ranked([worse, real])] == ["real", "worse"]
    write_json(tmp_path / "scores.json", [worse, real])
    first, second = json.loads((tmp_path / "scores.json").read_text())
    assert (first["name"], second["name"]) == ("real", "worse")
    assert first["numbers"] == real.numbers
    assert first["protocol"]["evaluators"] == dict(scorer.evaluators.hashes)
    assert first["times_floor"][FID] == real.floors
    assert first["protocol"]["n"] == N


def made(name: str, a: float, b: float | None, floor: bool = True) -> Score:
    """A score whose floors are 1 and 0.5, with such distances under A and B."""
    numbers = {FID: a} | ({} if b is None else {"fid.B.penultimate": b})
    scale = {"floor": {"mean": {FID: 1.0, "fid.B.penultimate": 0.5}}} if floor else {}
    return Score(name, numbers, scale, {}, {}, {}, {}, [], torch.zeros(0), None, None)


def test_the_headline_is_the_larger_of_the_two_evaluators_multiples() -> None:
    ours = made("ours", 1.5, 1.2)
    assert ours.floors_by == {"A": 1.5, "B": 2.4}
    assert ours.floors == 2.4
    assert ours.to_dict()["headline"] == {"floors": 2.4, "by": {"A": 1.5, "B": 2.4}, "interval_95": None}
    assert made("alone", 1.5, None).floors == 1.5
    assert made("bare", 1.5, 1.2, floor=False).floors is None
    # A puts ours first; the larger multiple does not
    theirs = made("theirs", 2.0, 0.5)
    assert [score.name for score in ranked([ours, theirs])] == ["theirs", "ours"]
    assert [score.name for score in ranked([ours, made("bare", 1.6, 0.1, floor=False)])] == ["ours", "bare"]


def test_the_protocol_line_names_sampling_options_and_the_content_of_files(scorer: Scorer, real: Score) -> None:
    warm, cold = (
        scorer.score(ModelSource("tiny", Tiny(TinyConfig()), sampling_options={"temperature": t}), n=100)
        for t in (1.0, 0.8)
    )
    assert "; sampling temperature 0.8; " in cold.protocol_line
    assert cold.protocol["sampling"] == {"temperature": 0.8}
    assert warm.protocol_line != cold.protocol_line
    plain = scorer.score(ModelSource("tiny", Tiny(TinyConfig())), n=100)
    assert plain.protocol_line == warm.protocol_line  # the default is an option like any other
    data = Dataset(*strokes(N, 3), 10, "real", "test")
    assert f"; images {data.hash}; " in real.protocol_line
    assert real.protocol["images_hash"] == data.hash


def test_no_reason_begins_with_the_name_that_it_stands_behind(scorer: Scorer) -> None:
    few = scorer.score(strokes(100, 3), training_images=200)
    assert few.not_measured["FID at infinite n"].startswith("too few images")
    assert few.not_measured["KID"].startswith("too few images")
    assert "no labels" in scorer.score((strokes(100, 3)[0], None)).not_measured["per-class FID"]
    for part, reason in few.not_measured.items():
        assert not reason.lower().removeprefix("the ").startswith(f"{part.lower()}:")


# How surely, and how much of it is class proportions.


def test_near_ties_are_not_distinguishable_and_spoilt_images_are(scorer: Scorer) -> None:
    images, labels = strokes(500, 3)
    real = scorer.score((images, labels), name="real", training_images=200)
    tie = scorer.score(strokes(500, 4), name="tie", training_images=200)
    worse = scorer.score((noisy(images), labels), name="worse", training_images=200)
    assert real.interval is not None
    assert real.interval[0] < real.floors < real.interval[1]
    apart = difference(real, tie)
    assert apart is not None
    assert not apart.distinguishable
    far = difference(real, worse)
    assert far is not None
    assert far.distinguishable
    assert far.floors == pytest.approx(worse.floors - real.floors)
    first, second, third = json.loads(to_json([worse, tie, real]))
    assert first["next"]["name"] == second["name"]
    assert first["next"]["distinguishable"] is False
    assert second["next"]["distinguishable"] is True
    assert "next" not in third
    assert difference(real, scorer.score(strokes(400, 3))) is None  # other numbers of images do not compare
    again = difference(real, real)
    assert again is not None
    assert again.floors == 0
    assert not again.distinguishable


def test_a_table_names_the_evaluators_and_what_is_not_distinguishable(
    scorer: Scorer, real: Score, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = made("ours", 1.5, 1.2)
    theirs = made("theirs", 2.0, 0.5)
    noise = Replicates(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64), 0.1)
    for each in (ours, theirs):
        each.protocol |= real.protocol
        each.replicates |= {FID: noise, "fid.B.penultimate": noise * 0.5}
    _print_several(ranked([ours, theirs]))
    text = capsys.readouterr().out
    assert text.splitlines()[0].split()[:8] == ["source", "/", "floor", "by", "A", "by", "B", "FID"]
    assert "note: theirs and ours are not distinguishable: the 95% interval of their difference, " in text


def test_a_score_says_how_much_of_it_is_class_proportions(scorer: Scorer, real: Score) -> None:
    images, labels = strokes(4 * N, 3)
    chosen = stratified_indices(labels, [310, 310, *[40] * 7, 100], seed=0)
    result = score(scorer, images[chosen], labels[chosen])
    assert result.fid > 3 * real.fid
    assert result.numbers[f"reweighted_{FID}"] < 1.5 * real.fid
    assert real.numbers[f"reweighted_{FID}"] == pytest.approx(real.fid, rel=1e-6)
    (note,) = [note for note in result.notes if "Class counts" in note]
    assert f"FID is {result.fid:.4g} ({result.floors:.1f} floors)" in note
    assert "42.0% of the images" in note
    assert not any("Class counts" in note for note in real.notes)
    unlabelled = score(scorer, images[chosen], None)
    assert unlabelled.numbers[f"reweighted_{FID}"] < 2 * real.fid  # by what the evaluator sees


def test_why_distances_of_real_images_are_below_zero(scorer: Scorer, real: Score) -> None:
    assert real.numbers["kid.A.penultimate"] < 0
    (note,) = [note for note in real.notes if "independent draws" in note]
    assert "KID" in note


# Two sets of images.


def test_one_set_against_another(evaluators: Evaluators) -> None:
    images, labels = strokes(1000, 3)
    judge = Scorer("strokes", evaluators=evaluators, against=(images, labels), n=500)
    assert len(judge.reference) == 500
    assert judge.reference.images is not None
    assert judge.control is not None
    halves = torch.cat([judge.reference.images, judge.control.images]).flatten(1)
    assert len(halves.unique(dim=0)) == len(images.flatten(1).unique(dim=0))  # nothing in both
    other = judge.score(strokes(500, 4), name="other")
    assert other.floors is not None
    assert 0.3 < other.floors < 3
    assert other.protocol["reference"] == "images one half"
    assert other.protocol["n"] == 500
    assert any("evaluators of strokes" in note for note in other.notes)
    assert not any("themselves" in note for note in other.notes)
    assert "training images of what made these" in other.not_measured["memorisation"]
    worse = judge.score((noisy(images[:500]), labels[:500]))
    assert worse.floors > 3
    itself = judge.score((images, labels))
    assert any(note.startswith("100.0% of these images are, pixel for pixel") for note in itself.notes)


def test_against_images_without_labels_or_of_another_kind(evaluators: Evaluators) -> None:
    judge = Scorer("strokes", evaluators=evaluators, against=(strokes(400, 3)[0], None))
    result = judge.score(strokes(400, 4))
    assert result.protocol["n"] == len(judge.reference)
    assert result.floors is not None
    assert "label_agreement" not in result.scale["floor"]["mean"]
    noise = torch.randint(256, (400, 1, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    strange = Scorer("strokes", evaluators=evaluators, against=(noise, torch.arange(400) % 10))
    assert any("may be of another kind" in note for note in strange.notes)


def test_too_few_images_for_a_floor(evaluators: Evaluators) -> None:
    result = Scorer("strokes", evaluators=evaluators, against=strokes(150, 3)).score(strokes(150, 4))
    assert result.floors is None
    assert "100 images each" in result.not_measured["floor"]
    assert result.protocol["reference_n"] == 150


def test_the_reference_is_not_scored_unnoticed(scorer: Scorer) -> None:
    reference = scorer.reference
    assert reference.images is not None
    itself = score(scorer, reference.images, reference.labels)
    assert any("compared with themselves" in note for note in itself.notes)
    bare = Scorer("strokes", evaluators=scorer.evaluators, reference=dataclasses.replace(reference, images=None))
    assert any("compared with themselves" in n for n in bare.score((reference.images, reference.labels)).notes)


def test_a_dataset_that_is_not_divided_gives_reference_and_floor(
    evaluators: Evaluators, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images, labels = strokes(600, 3)
    numpy.savez("own.npz", images=images[:, 0].numpy(), labels=labels.numpy())
    judge = Scorer("own.npz", evaluators=evaluators)
    result = judge.score(strokes(300, 4))
    assert result.floors is not None
    assert 0.3 < result.floors < 3  # of itself it would be far above
    assert result.protocol["reference"] == "own-npz all one half"
    assert any("evaluators are trained on" in note for note in result.notes)


def test_evaluators_of_a_dataset_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is advised is a command that works, and the evaluator is found by the data's name and by its content."""
    monkeypatch.chdir(tmp_path)
    images, labels = strokes(300, 3)
    Path("my data").mkdir()
    numpy.savez("my data/own.npz", images=images[:, 0].numpy(), labels=labels.numpy())
    request = ["score", "my data/own.npz", "--data", "my data/own.npz", "--quiet"]
    assert main(request) == 1
    advice = capsys.readouterr().err.split("Make one: mnistgen ")[1].strip().splitlines()[0]
    assert advice == "evaluator train cnn --data 'my data/own.npz'"
    assert main([*shlex.split(advice), "--steps", "3", "--batch-size", "8", "--quiet"]) == 0
    assert main(request) == 0
    Path("my data/own.npz").rename("renamed.npz")
    capsys.readouterr()
    assert main(["score", "renamed.npz", "--data", "renamed.npz", "--quiet"]) == 0
    assert "trained on other images" not in capsys.readouterr().out
    numpy.savez("bare.npz", images=images[:, 0].numpy())
    assert main(["score", "renamed.npz", "--data", "bare.npz", "--quiet"]) == 2
    assert "no labels to train an evaluator with" in capsys.readouterr().err
    numpy.savez("own.npz", images=images[:200, 0].numpy(), labels=labels[:200].numpy())
    assert main(["score", "own.npz", "--data", "own.npz", "--quiet"]) == 0  # the same name, other images
    assert "trained on other images that are called own-npz, too" in capsys.readouterr().out


def test_reference_features_come_back(evaluators: Evaluators, tmp_path: Path) -> None:
    data = dataset(N, 2, "test")
    written = write_reference(tmp_path, evaluators, data)
    assert {path.name for path in written} == {
        "reference-strokes-test-a.safetensors",
        "reference-strokes-test-random.safetensors",
    }
    back, there = read_reference(tmp_path, evaluators, "strokes", "test"), of_dataset(evaluators, data)
    assert back is not None
    assert back.hash == data.hash
    assert len(back.features_hash) == 16
    assert back.take(5).features_hash == back.features_hash
    assert torch.equal(back.labels, data.labels)
    for view, features in there.features.by_layer.items():
        assert torch.equal(back.features.by_layer[view], features)
    other = Evaluators.of({**evaluators.networks, "A": build_classifier("lenet", seed=7).eval()})
    assert read_reference(tmp_path, other, "strokes", "test") is None  # features of other weights are no reference
    path = reference_file(tmp_path, "strokes", "test", "A")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged"):
        read_reference(tmp_path, evaluators, "strokes", "test")


def test_with_and_without_the_dataset_the_numbers_are_the_same(evaluators: Evaluators, tmp_path: Path) -> None:
    data = dataset(N, 2, "test")
    write_reference(tmp_path, evaluators, data)
    shipped = read_reference(tmp_path, evaluators, "strokes", "test")
    assert shipped is not None
    one = Scorer("strokes", evaluators=evaluators, reference=shipped).score(strokes(N, 3))
    two = Scorer("strokes", evaluators=evaluators, reference=of_dataset(evaluators, data)).score(strokes(N, 3))
    assert one.numbers == two.numbers
    assert f"({data.hash}, features {shipped.features_hash}); scale computed here; seed 0" in one.protocol_line
    assert f"({data.hash}, features computed here); scale computed here; seed 0" in two.protocol_line


@pytest.mark.parametrize("file", ["reference-mnist-test-b.safetensors", "scale-mnist-test.json"])
def test_shipped_features_and_scales_that_are_others_are_refused(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(FOLDER, tmp_path / "weights"))
    monkeypatch.setattr(integrity, "_PACKAGE", tmp_path)
    evaluators = Evaluators.load("mnist")
    reference = read_reference(folder, evaluators, "mnist", "test")
    assert reference is not None
    scales, digest = read_scales(folder, evaluators, reference)
    assert set(scales) == {1000, 5000, 10000}
    assert len(digest) == 16
    content = bytearray((folder / file).read_bytes())
    content[-12] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(DataError, match=f"{file}.*damaged; install mnistgen again .*not the file that ships"):
        read_scales(folder, evaluators, read_reference(folder, evaluators, "mnist", "test"))


# The shipped evaluators.


def test_score_offline_in_an_empty_folder(tmp_path: Path) -> None:
    empty = tmp_path / "no-data"
    empty.mkdir()
    text = mnistgen(tmp_path, "score", "vae-mnist", "--n", "1000", "--json", "s.json", MNISTGEN_DATA=str(empty))
    assert "label agreement" in text
    assert "not measured: memorisation: it needs the training images. MNIST is not in" in text
    assert "protocol" in text
    (result,) = json.loads((tmp_path / "s.json").read_text())
    assert set(result["scale"]) == {"floor", "noisy", "blurred", "one class", "uniform noise"}
    assert result["scale"]["floor"]["mean"][FID] < result["numbers"][FID] < result["scale"]["noisy"]["mean"][FID]
    assert (tmp_path / "samples/score-vae-mnist/grid.png").is_file()


def test_several_sources_make_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNISTGEN_DATA", str(tmp_path))
    assert main(["sample", "vae-mnist", "--count", "300", "--out", "few.npz"]) == 0
    assert main(["score", "few.npz", "vae-mnist", "--n", "300", "--quiet"]) == 0
    text = capsys.readouterr().out
    table = text[text.index("source") :].splitlines()
    assert table[0].split()[:4] == ["source", "/", "floor", "FID"]
    assert {line.split()[0] for line in table[1:3]} == {"few-npz", "vae-mnist"}
    assert float(table[1].split()[1]) <= float(table[2].split()[1])
    assert "few-npz: not measured: memorisation" in text
    assert (tmp_path / "samples/score-few-npz/grid.png").is_file()


def test_json_alone_on_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images, labels = strokes(200, 3)
    numpy.savez("a.npz", images=images[:, 0].numpy(), labels=labels.numpy())
    assert main(["score", "a.npz", "--against", "a.npz", "--json", "-"]) == 0
    said = capsys.readouterr()
    (found,) = json.loads(said.out)
    assert found["name"] == "a-npz"
    assert found["protocol"]["reference"] == "a-npz one half"
    assert "compared with themselves" in said.err
    assert {path.name for path in tmp_path.iterdir()} == {"a.npz", "samples"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vae-mnist", "--option", "temprature=1"], "Did you mean 'temperature'"),
        (["vae-mnist", "--option", "temperature"], "NAME=VALUE"),
        (["vae-mnist", "--option", "temperature=warm"], "it is a number"),
        (["digits.npz", "--option", "temperature=1"], "There is no checkpoint 'digits.npz'"),
        (["vae-mnist", "--n", "50"], "too few images"),
        (["vae-mnist", "--n", "0"], "at least 1"),
        (["vae-mnist", "--features", "incepton"], "Did you mean 'inception'"),
        (["vae-mnist", "--data", "fashion"], "no evaluator A for fashion"),
        (["vae-mnist", "--out", "-"], "--out -: this is not written to standard output"),
        (["vae-mnist", "--against", "nothing.npz"], "There is no checkpoint 'nothing.npz'"),
        (["vae-mnist", "--two-sample"], "images of mnist are not on disk"),
        (["vae-mnist", "--features", "inception"], "--inception-weights"),
        (["vae-mnsit"], "Did you mean 'vae-mnist'"),
        ([], "Name what is to be scored: mnistgen score SOURCE ... There is axial-mnist, "),
    ],
)
def test_wrong_requests(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNISTGEN_DATA", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert main(["score", *arguments]) in (1, 2)
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_inception_looks_on_the_scorers_device(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = []
    monkeypatch.setattr("mnistgen.scoring.scorer.check_inception_weights", lambda path: path)
    monkeypatch.setattr("mnistgen.scoring.scorer.inception_fid", lambda *_, device, **__: devices.append(device) or 1.0)
    bare = Scorer("strokes", evaluators=scorer.evaluators, reference=scorer.reference)
    assert bare.score(strokes(100, 3), inception=True).numbers["inception_fid"] == 1.0
    assert devices == [bare.device]


@pytest.fixture(scope="module")
def judge(mnist: Dataset) -> Scorer:
    return Scorer("mnist", device="cpu")


@pytest.fixture(scope="module")
def some(mnist: Dataset) -> Dataset:
    return mnist.subset(stratified_indices(mnist.labels, [100] * 10, seed=0))


class TestOnRealDigits:
    """The sanity of the shipped evaluators; 1,000 real images a side."""

    def test_what_ships_is_what_the_dataset_gives(self, judge: Scorer) -> None:
        data = load_data("mnist", "test", download=False)
        assert judge.reference.hash == data.hash
        some = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:200]
        fresh = judge.evaluators.extract(data.images[some])
        for view, features in judge.reference.features.by_layer.items():
            torch.testing.assert_close(fresh.by_layer[view], features[some], rtol=2e-3, atol=1e-3)
        assert torch.equal(judge.reference.labels, data.labels)
        assert set(judge.scales) == {1000, 5000, 10000}

    @pytest.mark.slow
    def test_fid_rises_with_noise_and_blur(self, judge: Scorer, some: Dataset) -> None:
        for corrupt in (lambda s: noisy(some.images, s), lambda s: blurred(some.images, 8 * s)):
            found = [numbers(judge, corrupt(s), some.labels) for s in (0, 0.05, 0.1, 0.2)]
            for name in (FID, "fid.A.early", "fid.B.penultimate", "class_fid.mean"):
                values = [x[name] for x in found]
                assert values == sorted(values), name

    @pytest.mark.slow
    def test_swapped_labels(self, judge: Scorer, some: Dataset) -> None:
        labels = some.labels.clone()
        labels[some.labels == 4], labels[some.labels == 9] = 9, 4
        plain, swapped = judge.score(some), judge.score((some.images, labels))
        assert plain.numbers["label_agreement"] > 0.99
        assert swapped.numbers["label_agreement"] < 0.81
        assert swapped.details["per_class_fid"]["worst_class"] in (4, 9)
        assert {alarm["label"] for alarm in swapped.details["labels"]["alarms"]} == {4, 9}

    @pytest.mark.slow
    def test_copies(self, judge: Scorer, mnist: Dataset) -> None:
        chosen = stratified_indices(
            mnist.labels, class_counts(mnist.labels, 10_000), seed=0
        )  # those that copies are looked for in
        copies = judge.score(mnist.subset(chosen[:1000]))
        assert copies.numbers["authentic"] == 0
        assert copies.numbers["authentic_real"] > 0.5
        assert copies.numbers["copying"] < -8  # nearly the least that fifty against fifty a class can give


def test_the_library_call(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnistgen.scoring.scorer.Scorer", lambda *args, **options: scorer)
    assert package.score(strokes(N, 3), data="strokes", name="mine").name == "mine"


def test_references_that_cannot_be_had(evaluators: Evaluators, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="downloading is off"):
        load_reference(evaluators, "kmnist", data_dir=tmp_path)
