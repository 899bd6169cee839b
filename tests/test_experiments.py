"""What a study rests on: statistics with the coverage they claim, subsets, the guard, and verdicts."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tiny import Tiny, strokes

from mnistgen import Dataset, LeakageError, UsageError, load_data
from mnistgen.data import data_folder
from mnistgen.experiments import CONDITIONS, DEFAULT_CONDITIONS, Design
from mnistgen.experiments.analysis import Baseline, Outcome, Row, comparisons, verdict
from mnistgen.experiments.protocol import (
    BATCH,
    classifier_steps,
    find_conditions,
    generator_config,
    generator_steps,
    sampling_options,
)
from mnistgen.experiments.subsets import (
    Subsets,
    check_exactly,
    check_trained_on,
    check_within,
    content,
    fingerprints,
    seed_of,
)
from mnistgen.metrics import nearest, pixels
from mnistgen.metrics.statistics import Interval, holm, paired, pairs_needed, power, t_interval
from mnistgen.registry import model_class
from mnistgen.transforms import shifts

SIMULATIONS = 2000


def dataset(n: int, seed: int = 0, split: str = "train") -> Dataset:
    return Dataset(*strokes(n, seed), num_classes=10, name="strokes", split=split)


def within(share: float, expected: float) -> bool:
    """Within four standard errors of a share of the simulations."""
    return abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / SIMULATIONS)


# Statistics.


@pytest.mark.parametrize("n", [2, 5, 10])
def test_intervals_cover_a_known_effect(n: int) -> None:
    generator = np.random.default_rng(n)
    theirs = 0.9 + 0.02 * generator.standard_normal((SIMULATIONS, n))
    ours = theirs + 0.004 + 0.01 * generator.standard_normal((SIMULATIONS, n))
    means = [t_interval(row.tolist()) for row in theirs]
    assert within(sum(i.low < 0.9 < i.high for i in means) / SIMULATIONS, 0.95)
    differences = [paired(a.tolist(), b.tolist()).interval for a, b in zip(ours, theirs, strict=True)]
    assert within(sum(i.low < 0.004 < i.high for i in differences) / SIMULATIONS, 0.95)
    assert not within(sum(i.low < 0.004 < i.high for i in means) / SIMULATIONS, 0.95)


def test_a_paired_test_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, s = 1, t = 2 sqrt(3) = 3.4641, p = 0.0742 at 2 degrees of freedom, t_0.975 = 4.3027.
    found = paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found.interval.mean == pytest.approx(2)
    assert found.spread == pytest.approx(1)
    assert found.p == pytest.approx(0.07418, abs=1e-5)
    assert found.interval.high == pytest.approx(2 + 4.302653 / math.sqrt(3))
    assert paired([3.0], [1.0]) == (Interval(2.0, None, None, 1), 0.0, None)
    assert t_interval([1.0]).half == math.inf
    assert paired([0.5, 0.6], [0.4, 0.5]).p == 0  # the same difference each time
    assert paired([0.5, 0.6], [0.5, 0.6]).p == 1
    with pytest.raises(UsageError, match="no values"):
        t_interval([])


def test_an_interval_is_cut_to_where_its_mean_can_lie() -> None:
    whole, cut = t_interval([0.17, 0.94, 0.93]), t_interval([0.17, 0.94, 0.93], within=(0.0, 1.0))
    assert whole.low is not None
    assert whole.high is not None
    assert whole.low < 0
    assert whole.high > 1
    assert cut == Interval(whole.mean, 0.0, 1.0, 3)
    assert t_interval([0.9, 0.91, 0.92], within=(0.0, 1.0)) == t_interval([0.9, 0.91, 0.92])


def test_holm_by_hand() -> None:
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, and 1 x 0.04, which may not be less than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_error_of_a_family() -> None:
    generator = np.random.default_rng(0)
    baseline, others = generator.standard_normal((SIMULATIONS, 1, 5)), generator.standard_normal((SIMULATIONS, 6, 5))
    effect = np.array([0.0, 0.0, 0.0, 0.0, 4.0, 4.0])[:, None]  # four conditions that do nothing, and two that do
    wrong = uncorrected = 0
    for ours, theirs in zip(others + effect, baseline, strict=True):
        p = [paired(row.tolist(), theirs[0].tolist()).p or 0.0 for row in ours]
        uncorrected += min(p[:4]) < 0.05
        wrong += min(holm(p)[:4]) < 0.05
    assert wrong / SIMULATIONS < 0.05 + 4 * math.sqrt(0.05 * 0.95 / SIMULATIONS)
    assert uncorrected / SIMULATIONS > 0.1


def test_the_number_of_pairs() -> None:
    for effect, known in ((0.2, 199), (0.5, 34), (1.0, 10)):  # as tables of the paired t-test have it
        assert pairs_needed(1.0, effect) == known
        assert power(known, 1.0, effect) >= 0.8 > power(known - 1, 1.0, effect)
    assert pairs_needed(0.0, 0.1) == 2
    assert pairs_needed(0.2, 1.0) == 3  # power 0.58 with 2 pairs, 0.98 with 3
    assert pairs_needed(1.0, 1e-6) is None


# Verdicts.


def outcome(condition: str, accuracies: Sequence[float], *, size: int = 10, model: str = "") -> Outcome:
    row = Row("cnn", size, condition, model, 5.0 if model else 0.0)
    values = dict(enumerate(accuracies))
    return Outcome(row, values, t_interval(list(accuracies)), 1.0, 1.0, 10, 100, 0)


def study(effect: float, noise: float, *, n: int = 10, seed: int = 0, size: int = 10) -> list[Outcome]:
    """Three conditions; the one with synthetic images is better by `effect` than the classical one."""
    generator = np.random.default_rng(seed)
    base = 0.9 + 0.01 * generator.standard_normal(n)
    ours = base + effect + noise * generator.standard_normal(n)
    return [
        outcome("real", (base - 0.1).tolist(), size=size),
        outcome("classical", base.tolist(), size=size),
        outcome("classical-synthetic", ours.tolist(), size=size, model="vae"),
    ]


@pytest.mark.parametrize(
    ("effect", "noise", "decision", "answer"),
    [
        (0.02, 0.002, "helps", "Yes, they do: added to"),
        (-0.02, 0.002, "hurts", "No, they do harm: added to"),
        (0.0, 0.002, "no difference that matters", "No: added to"),
        (0.0, 0.05, "undecided", "Not shown: added to"),
    ],
)
def test_the_verdict_says_what_is_so(effect: float, noise: float, decision: str, answer: str) -> None:
    compared = comparisons(study(effect, noise))
    (ours,) = [c for c in compared if c.row.condition == "classical-synthetic" and c.against == "classical"]
    assert ours.decision == decision
    assert ours.effect == pytest.approx(0.1 * (1 - 0.9), abs=0.002)
    said = verdict(compared)
    assert said.startswith(answer)
    assert "1 of 1" in said
    assert said.endswith(").")
    assert ". " not in said  # one sentence
    if decision == "undecided":
        assert ours.too_wide
        assert ours.pairs_needed is not None
        assert ours.pairs_needed > 10
        assert f"up to {ours.pairs_needed} pairs would tell" in said
    else:
        assert not ours.too_wide
        assert ours.pairs_needed is None


def test_a_verdict_is_wrong_no_more_often_than_it_says() -> None:
    decisions = []
    for seed in range(400):
        compared = comparisons(study(0.0, 0.01, n=5, seed=seed))
        decisions.append(next(c.decision for c in compared if c.row.model and c.against == "classical"))
    wrong = sum(decision in ("helps", "hurts") for decision in decisions) / len(decisions)
    assert wrong < 0.05 + 4 * math.sqrt(0.05 * 0.95 / len(decisions))


def test_a_verdict_of_several_cases_and_a_weak_baseline() -> None:
    found = [*study(0.03, 0.001), *study(0.0, 0.1, size=100)]
    weak = Baseline("cnn", "10", t_interval([0.8, 0.82]), 0.88, least=True)
    said = verdict(comparisons(found), [weak])
    assert said.startswith("In part: added to")
    assert "help in 1 of 2 cases (vae x5 at 10 per class: +2.9" in said
    assert "leave 1 of 2 undecided with 10 pairs" in said
    assert "the baseline is weak at 10 per class (81.0% against 88.0%)" in said
    assert weak.weak
    assert not Baseline("cnn", "10", t_interval([0.9, 0.9]), 0.88, least=True).weak
    assert verdict(comparisons(found[:2])).startswith("No verdict")


def test_leaking_conditions_and_the_pool_have_no_say() -> None:
    found = study(0.0, 0.001)
    base = list(found[1].accuracies.values())
    for name in ("leaking", "pool", "pseudo-labels", "more-real", "repeated"):
        found.append(outcome(name, [a + 0.05 for a in base], model="vae" if CONDITIONS[name].generated else ""))
    compared = comparisons(found)
    assert verdict(compared) == verdict(comparisons(found[:3]))
    families = {c.row.condition: (c.row.role, c.tests) for c in compared if c.against == "classical"}
    assert families["classical-synthetic"] == ("synthetic", 1)
    assert families["leaking"] == ("leaking", 1)
    assert families["pool"] == ("pool", 2)
    assert families["more-real"] == ("baseline", 3)  # and real, and repeated


def test_only_repetitions_of_both_conditions_are_compared() -> None:
    ours, theirs = outcome("synthetic", [0.9, 0.8, 0.7], model="vae"), outcome("classical", [0.5, 0.6])
    (found,) = comparisons([ours, theirs])
    assert found.paired.interval.n == 2
    assert found.paired.interval.mean == pytest.approx(0.3)


# Subsets.


def test_subsets_are_balanced_nested_and_of_their_seed() -> None:
    data = dataset(500)
    subsets = Subsets(data, seed=1)
    sizes = {size: subsets.take(size) for size in (1, 3, 10)}
    for size, subset in sizes.items():
        assert torch.bincount(subset.labels).tolist() == [size] * 10
    assert set(subsets.places(1).tolist()) < set(subsets.places(3).tolist()) < set(subsets.places(10).tolist())
    assert torch.equal(sizes[10].images[:30], sizes[3].images)
    assert Subsets(data, seed=1).take(3).hash == sizes[3].hash != Subsets(data, seed=2).take(3).hash
    further = subsets.places(5, skip=3)
    assert not set(further.tolist()) & set(subsets.places(3).tolist())
    assert {*further.tolist(), *subsets.places(3).tolist()} == set(subsets.places(8).tolist())
    assert subsets.take(None).hash == data.hash
    with pytest.raises(UsageError, match="51 images of each class are needed, and class 0 has 50"):
        subsets.take(50, skip=1)


def test_the_pool_is_all_but_the_subset() -> None:
    subsets = Subsets(dataset(200), seed=1)
    mine = subsets.places(4)
    pool = subsets.pool(mine, 1000)
    assert sorted((*pool.tolist(), *mine.tolist())) == list(range(200))
    assert subsets.pool(mine, 7).tolist() == pool[:7].tolist()


def test_the_guard_sees_one_image_too_many_or_too_few() -> None:
    data = dataset(100)
    subset, stranger = data.subset(torch.arange(20)), data.subset(torch.tensor([*range(20), 33]))
    assert check_exactly(subset, subset, "it") == check_exactly(subset.subset(torch.arange(19, -1, -1)), subset, "it")
    with pytest.raises(LeakageError, match="it would be trained on 1 images from outside the subset of 20"):
        check_exactly(stranger, subset, "it")
    with pytest.raises(LeakageError, match="without 1 of it"):
        check_exactly(subset.subset(torch.arange(19)), subset, "it")
    twice = data.subset(torch.tensor([*range(20), 0]))
    with pytest.raises(LeakageError, match="on 1 images"):
        check_exactly(twice, subset, "it")
    relabelled = Dataset(subset.images, (subset.labels + 1) % 10, 10, "strokes", "train")
    with pytest.raises(LeakageError, match="on 20 images"):
        check_exactly(relabelled, subset, "it")
    changed = subset.images.clone()
    changed[7, 0, 3, 3] ^= 1  # one bit
    with pytest.raises(LeakageError, match="on 1 images"):
        check_exactly(Dataset(changed, subset.labels, 10, "strokes", "train"), subset, "it")
    check_within(relabelled, data, "it")
    with pytest.raises(LeakageError, match="1 images that are not in the train split of strokes"):
        check_within(Dataset(changed, subset.labels, 10, "strokes", "train"), data, "it")
    seen = content(fingerprints(subset.images, subset.labels))
    check_trained_on(seen, subset, "it")
    with pytest.raises(LeakageError, match="on other images"):
        check_trained_on(seen, stranger, "it")


def test_seeds_are_of_what_they_are_for() -> None:
    seeds = {seed_of(0, r, n, what) for r in range(3) for n in (10, "all") for what in ("a", "b")}
    assert len(seeds) == 12
    assert seed_of(0, 1, "a") == seed_of(0, 1, "a")
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_nine_shifts() -> None:
    image = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    image[0, 0, 5, 9] = 255
    moved = shifts(image)
    assert moved.shape == (9, 1, 28, 28)
    places = {tuple(place) for _, _, *place in moved.nonzero().tolist()}
    assert places == {(5 + i, 9 + j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    assert torch.equal(shifts(torch.cat([image, image * 0]))[::2], moved)


def test_the_nearest_neighbour_of_real_digits_is_right_as_often_as_is_known(mnist: Dataset) -> None:
    if not (data_folder() / "MNIST" / "raw").is_dir():
        pytest.skip("MNIST's test images are not on disk")
    test = load_data("mnist", "test", download=False).subset(torch.arange(0, 10_000, 5))
    right = []
    for seed in range(8):
        subset = Subsets(mnist, seed).take(10)
        found = nearest(pixels(test.images), pixels(subset.images)).indices[:, 0]
        right.append(float((subset.labels[found] == test.labels).double().mean()))
    assert sum(right) / 8 == pytest.approx(0.720, abs=0.02)


# Conditions and designs.


def test_conditions() -> None:
    assert {"real", "classical"} <= {c.name for c in find_conditions(("synthetic",))}
    assert [c.name for c in find_conditions(("all",))] == list(CONDITIONS)
    assert {name for name, c in CONDITIONS.items() if c.role == "pool"} == set(CONDITIONS) - set(DEFAULT_CONDITIONS)
    for c in CONDITIONS.values():
        assert ("LEAKING" in c.title) == (c.other == "everything") == (c.role == "leaking")
        assert ("UNLABELLED POOL" in c.title) == (c.other in ("pool", "pseudo-labels")) == (c.role == "pool")
    with pytest.raises(UsageError, match="Did you mean 'synthetic'"):
        find_conditions(("sinthetic",))


def test_lengths_are_fixed_by_the_size_alone() -> None:
    assert [classifier_steps(n) for n in (100, 1000, 10_000)] == [300, 949, 3000]
    assert [generator_steps(n) for n in (100, 1000, 60_000)] == [371, 800, 3132]
    assert 371 * 64 / 100 > 9 * 20  # far more than nine epochs of 100 images
    assert BATCH % 2 == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"models": ()}, "at least one model"),
        ({"per_class": ()}, "at least one size"),
        ({"per_class": (10, 10)}, "named twice: 10 10"),
        ({"per_class": (0,)}, "--per-class is 0"),
        ({"ratio": (-1.0,)}, "--ratio is -1"),
        ({"ratio": (math.nan,)}, "--ratio is nan"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"classifiers": ("lennet",)}, "Did you mean 'lenet'"),
        ({"classifiers": ()}, "at least one classifier"),
        ({"classifiers": ("cnn", "cnn")}, "named twice: cnn cnn"),
        ({"conditions": ("nothing",)}, "There is no condition 'nothing'"),
        ({"real_fraction": 1.0}, "--real-fraction is 1.0"),
        ({"filter": 1.0}, "--filter is 1.0"),
        ({"generator_steps": 0}, "--generator-steps is 0"),
    ],
)
def test_designs_that_make_no_sense(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Design(**{"models": ("vae",), **wrong})  # type: ignore[arg-type]


def test_a_later_default_of_the_flow_moves_no_study() -> None:
    flow = model_class("flow")
    assert generator_config("flow", flow) == flow.Config(middle_guidance=1.0)
    assert sampling_options("flow", flow) == {"steps": 9}
    assert generator_config("flow", Tiny) == Tiny.Config()  # another model of that name, without such fields
    assert sampling_options("flow", Tiny) == {}
