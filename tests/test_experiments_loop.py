"""Self-consuming training: what each generation learns from, and that it goes on after a break."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Tiny, strokes
from torch import Tensor

from mnistgen import Dataset, Noise, UsageError
from mnistgen.evaluator import build_classifier
from mnistgen.experiments import Loop, loop, report
from mnistgen.experiments.cache import Task
from mnistgen.experiments.plan import Costs, guidances
from mnistgen.experiments.subsets import fingerprints
from mnistgen.experiments.tasks import Generation, StudyContext
from mnistgen.scoring import Evaluators, Scorer, classifiers
from mnistgen.scoring.reference import of_dataset


def dataset(n: int, seed: int, split: str) -> Dataset:
    return Dataset(*strokes(n, seed), num_classes=10, name="strokes", split=split)


TRAIN, TEST = dataset(300, 0, "train"), dataset(100, 1, "test")
GENERATIONS = 2


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than all the rest; one test has them."""
    monkeypatch.setattr(report, "_loop_figures", lambda found: {})


FIGURES = report._loop_figures


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the classifiers of CAS learn is not looked at."""
    monkeypatch.setitem(classifiers.RECIPE, "batch_size", 16)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The networks are small, and more threads would fight over them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    """Looks with an untrained network, which is enough to be looked at."""
    evaluators = Evaluators.of({"A": build_classifier("lenet", seed=0).eval()})
    return Scorer(
        "strokes", evaluators=evaluators, reference=of_dataset(evaluators, TEST), training=TRAIN, device="cpu"
    )


class Guided(Tiny):
    """Has a guidance option, which makes images brighter."""

    def sample(self, y: Tensor, *, noise: Noise, guidance: float = 0.5) -> Tensor:  # type: ignore[override]
        return (super().sample(y, noise=noise) + guidance).clamp(-1, 1)


class Spy:
    """Notes what generators are trained on."""

    def __init__(self) -> None:
        self.seen: list[Dataset] = []

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fit = StudyContext.fit

        def fitting(context: StudyContext, model: Any, data: Dataset, *rest: Any) -> Any:
            self.seen.append(data)
            return fit(context, model, data, *rest)

        monkeypatch.setattr(StudyContext, "fit", fitting)


def small(folder: Path, scorer: Scorer, **changes: Any) -> Loop:
    options: dict[str, Any] = {"generations": GENERATIONS, "per_class": (3,), "scored": 100, "generator_steps": 4}
    models = changes.pop("models", (Tiny,))
    return loop(models, data=(TRAIN, TEST), scorer=scorer, out=folder, cas_steps=2, **{**options, **changes})


@pytest.mark.parametrize("mode", ["replace", "accumulate", "fresh"])
def test_what_each_generation_learns_from(
    mode: str, tmp_path: Path, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy()
    spy.watch(monkeypatch)
    found = small(tmp_path, scorer, mode=mode)
    assert not found.failures
    assert not found.missing
    assert len(spy.seen) == GENERATIONS + 1
    real = fingerprints(TRAIN.images, TRAIN.labels)
    subset = found.context.subsets(0).take(3)
    assert spy.seen[0].hash == subset.hash
    used = fingerprints(subset.images)
    for number, data in enumerate(spy.seen[1:], 1):
        prints = fingerprints(data.images, data.labels)
        mine, drawn = prints & real, prints - real
        if mode == "replace":
            assert (mine.total(), drawn.total()) == (0, 30)
        elif mode == "accumulate":
            assert (mine.total(), drawn.total()) == (30, 30 * number)
            assert mine == fingerprints(subset.images, subset.labels)
        else:
            assert (mine.total(), drawn.total()) == (30, 30)
            assert torch.bincount(data.labels).tolist() == [6] * 10
            fresh = fingerprints(data.images) & fingerprints(TRAIN.images)
            assert not fresh & used  # no generation has seen them
            used += fresh
    assert [line.generation for line in found.lines] == list(range(GENERATIONS + 1))
    assert all(set(line.numbers) == {"fid", "coverage", "cas"} for line in found.lines)
    assert set(found.real) == {"fid", "coverage", "cas"}


def test_with_and_without_guidance(tmp_path: Path, scorer: Scorer) -> None:
    found = small(tmp_path, scorer, models=(Guided,), generations=1, seeds=2)
    assert {(line.guidance, line.generation) for line in found.lines} == {
        (name, number) for name in ("without guidance", "guidance 0.5") for number in (0, 1)
    }
    fid = {line.guidance: line.numbers["fid"] for line in found.lines if line.generation == 0}
    assert fid["without guidance"].mean != fid["guidance 0.5"].mean
    assert {interval.n for interval in fid.values()} == {2}
    assert guidances(Tiny) == [()]
    assert guidances(Guided, 2.0) == [(("guidance", 0.0),), (("guidance", 2.0),)]
    with pytest.raises(UsageError, match="0 is no guidance for Guided"):
        guidances(Guided, 0.0)


def test_training_that_breaks_off_goes_on(tmp_path: Path, scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = small(tmp_path / "whole", scorer)
    score, count = Scorer.score, [0]

    def failing(self: Scorer, *arguments: Any, **rest: Any) -> Any:
        count[0] += 1
        if count[0] == 2:
            raise RuntimeError("the evaluator is tired")
        return score(self, *arguments, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "score", failing)
        broken = small(tmp_path / "broken", scorer)
    assert broken.missing == 2  # generation 1, and 2, which depends on it
    assert next(failure.why for failure in broken.failures) == "RuntimeError: the evaluator is tired"
    spy = Spy()
    spy.watch(monkeypatch)
    again = small(tmp_path / "broken", scorer)
    assert len(spy.seen) == 2
    assert again.lines == whole.lines
    for name in ("loop.csv", "loop.md"):
        assert (tmp_path / "broken" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_it_goes_as_far_as_its_budget(tmp_path: Path, scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(_: Costs, task: Task) -> float:
        return 1e6 if isinstance(task, Generation) and task.number >= 1 else 0.0

    with monkeypatch.context() as patch:
        patch.setattr(Costs, "__call__", seconds)
        found = small(tmp_path, scorer, budget=600.0)
    assert [task.number for task in found.generations] == [0]
    assert not found.failures
    assert found.missing == GENERATIONS
    assert not small(tmp_path, scorer, budget=600.0).missing


def test_what_it_leaves_behind(tmp_path: Path, scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_loop_figures", FIGURES)
    found = small(tmp_path, scorer, generations=1)
    pictures = {f"images-{task.chain}-{task.subset.size}.png" for task in found.generations}
    assert pictures
    assert {path.name for path in tmp_path.iterdir()} == {
        "records",
        "made",
        "loop.json",
        "loop.csv",
        "loop.md",
        "loop.png",
        *pictures,
    }
    numbers = json.loads((tmp_path / "loop.json").read_text())
    assert numbers["mode"] == "replace"
    assert [row["generation"] for row in csv.DictReader((tmp_path / "loop.csv").open())] == ["0", "1"]
    text = (tmp_path / "loop.md").read_text()
    assert "| real images |" in text
    assert f"FID and coverage: {numbers['protocol']}\n" in text
    assert numbers["protocol"].startswith("evaluators A ")
    assert all(f"]({name})" in text for name in ("loop.png", *pictures))


def test_designs_that_make_no_sense(tmp_path: Path, scorer: Scorer) -> None:
    with pytest.raises(UsageError, match=r"There is no mode 'replaced'\. Did you mean 'replace'"):
        small(tmp_path, scorer, mode="replaced")
    with pytest.raises(UsageError, match="33 images of each class are needed"):
        small(tmp_path, scorer, mode="fresh", generations=10)
    with pytest.raises(UsageError, match="--mode fresh needs images"):
        small(tmp_path, scorer, mode="fresh", per_class=("all",))
    with pytest.raises(UsageError, match="--generations is 0"):
        small(tmp_path, scorer, generations=0)
