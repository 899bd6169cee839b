"""The study from end to end: pairing, kills, several processes, failures, leaks, and what it leaves behind."""

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import mnistgen, two_processes
from PIL import Image
from tiny import Duel, Tiny, TinyConfig, strokes
from torch import Tensor

from mnistgen import BaseConfig, Dataset, GenerativeModel, LeakageError, Loss, Noise, UsageError, augment
from mnistgen.cli import main
from mnistgen.console import Display
from mnistgen.data import to_float
from mnistgen.data.dataset import joined
from mnistgen.evaluator import Classifier, build_classifier
from mnistgen.experiments import CONDITIONS, Study, report, tasks
from mnistgen.experiments.cache import Cache, Runner, Task
from mnistgen.experiments.plan import Costs
from mnistgen.experiments.protocol import BATCH
from mnistgen.experiments.subsets import fingerprints
from mnistgen.experiments.tasks import (
    Classify,
    NearestNeighbour,
    SampleImages,
    StudyContext,
    TrainGenerator,
    TrainLabeller,
)
from mnistgen.files import claimed
from mnistgen.training import Part

PER_CLASS = (2, 4)
ARGUMENTS = ("--per-class", "2", "--ratio", "2", "--seeds", "2", "--classifier", "logistic")
ARGUMENTS += ("--generator-steps", "4", "--classifier-steps", "5", "--data", "strokes.npz", "--quiet")
CONDITIONS_OF_TWO = ("--conditions", "synthetic", "leaking")


def dataset(n: int, seed: int, split: str) -> Dataset:
    return Dataset(*strokes(n, seed), num_classes=10, name="strokes", split=split)


TRAIN, TEST = dataset(300, 0, "train"), dataset(100, 1, "test")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The networks are small, and more threads would fight over them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="module")
def no_figures() -> Iterator[None]:
    """They take longer than all the rest; one study has them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "_study_figures", lambda study: {})
        yield


FIGURES = report._study_figures


def small(folder: Path, models: Sequence[type[GenerativeModel]] = (Tiny,), **changes: Any) -> Study:
    design = {
        "per_class": (2,),
        "ratio": (2.0,),
        "seeds": 1,
        "classifiers": ("logistic",),
        "generator_steps": 4,
        "classifier_steps": 5,
    }
    return augment(models, data=(TRAIN, TEST), out=folder, **{**design, **changes})


# What is compared with what.


@dataclass
class Fitted:
    """One training, as it was asked for."""

    name: str
    data: Dataset
    steps: int
    seed: int
    parts: Sequence[Part] | None
    start: Tensor  # first weights


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, dict[str, Fitted], list[Dataset]]:
    """A study of every condition, all that was trained in it, and all that a classifier was tested on."""
    fitted: dict[str, Fitted] = {}
    tested: list[Dataset] = []
    fit, evaluate = StudyContext.fit, tasks.evaluate

    def watch(self: StudyContext, model: Any, data: Dataset, task: Any, parts: Any = None) -> Any:
        start = next(model.parameters()).detach().clone()
        fitted[task.name] = Fitted(task.name, data, task.steps, task.seed, parts, start)
        return fit(self, model, data, task, parts)

    def look(model: Classifier, data: Dataset) -> Any:
        tested.append(data)
        return evaluate(model, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StudyContext, "fit", watch)
        patch.setattr(tasks, "evaluate", look)
        patch.setattr(report, "_study_figures", FIGURES)
        study = small(tmp_path_factory.mktemp("watched"), per_class=PER_CLASS, seeds=2, conditions=("all",), pool=40)
    return study, fitted, tested


def of_conditions(study: Study) -> list[Classify]:
    return [task for task in study.plan.everything if isinstance(task, Classify)]


def test_every_condition_is_there_at_every_size(watched: tuple[Study, dict[str, Fitted], list[Dataset]]) -> None:
    study = watched[0]
    assert not study.failures
    assert not study.missing
    assert {(o.row.condition, o.row.per_class) for o in study.outcomes} == {
        (name, n) for name in CONDITIONS for n in PER_CLASS
    }
    assert all(o.accuracy.n == 2 for o in study.outcomes)
    assert {c.against for c in study.comparisons} == {"classical", "real"}


def test_conditions_are_paired_and_of_equal_length(watched: tuple[Study, dict[str, Fitted], list[Dataset]]) -> None:
    study, fitted, _ = watched
    for repetition in range(2):
        for size in PER_CLASS:
            here = [c for c in of_conditions(study) if c.subset.repetition == repetition and c.subset.per_class == size]
            runs = {task.condition: fitted[task.name] for task in here}
            assert set(runs) == set(CONDITIONS)
            assert {run.steps for name, run in runs.items() if name != "repeated"} == {5}
            assert runs["repeated"].steps == 5 + 4
            assert len({run.seed for run in runs.values()}) == 1
            assert all(torch.equal(run.start, runs["real"].start) for run in runs.values())
            assert {task.batch for task in here} == {BATCH}
            subset = study.context.subsets(repetition).take(size)
            for task in here:
                run, condition = runs[task.condition], CONDITIONS[task.condition]
                assert json.loads(task.config)["rotation"] == condition.distortion.rotation
                assert json.loads(task.config)["elastic"] == condition.distortion.elastic
                if condition.subset:
                    assert torch.equal(run.data.images[: len(subset)], subset.images)
                    assert torch.equal(run.data.labels[: len(subset)], subset.labels)
                if condition.name == "synthetic-only":
                    assert len(run.data) == 2 * len(subset)
                    assert not fingerprints(run.data.images) & fingerprints(TRAIN.images)
                elif condition.other in ("subset", "pool", "everything", "real"):
                    assert run.parts == [Part(len(subset), BATCH // 2), Part(2 * len(subset), BATCH // 2)]
                elif not condition.other:
                    assert run.parts is None
                    assert run.data.hash == subset.hash
    seeds = {(c.subset.repetition, c.subset.per_class): c.seed for c in of_conditions(study)}
    assert len(set(seeds.values())) == len(seeds)


def test_generators_see_what_their_condition_allows(watched: tuple[Study, dict[str, Fitted], list[Dataset]]) -> None:
    study, fitted, _ = watched
    trained = [task for task in study.plan.everything if isinstance(task, TrainGenerator)]
    assert sorted(task.regime for task in trained) == ["everything", *["pool"] * 4, *["subset"] * 4]
    real = fingerprints(TRAIN.images)
    for task in trained:
        data = fitted[task.name].data
        if task.subset is None:
            assert data.hash == TRAIN.hash
            continue
        subset = study.context.subsets(task.subset.repetition).take(task.subset.per_class)
        mine = fingerprints(subset.images, subset.labels)
        if task.regime == "subset":
            assert fingerprints(data.images, data.labels) == mine
        else:
            assert torch.equal(data.labels[: len(subset)], subset.labels)
            rest = data.images[len(subset) :]
            assert not fingerprints(rest) & fingerprints(subset.images)
            assert not fingerprints(rest) - real
            assert len(rest) <= 40
    more = next(c for c in of_conditions(study) if c.condition == "more-real")
    subset = study.context.subsets(more.subset.repetition).take(more.subset.per_class)
    further = fitted[more.name].data.images[len(subset) :]
    assert not fingerprints(further) - (real - fingerprints(subset.images))


def test_the_test_split_is_looked_at_once_by_each_classifier(
    watched: tuple[Study, dict[str, Fitted], list[Dataset]],
) -> None:
    study, fitted, tested = watched
    assert [data.hash for data in tested] == [TEST.hash] * len(of_conditions(study))
    secret = fingerprints(TEST.images)
    for run in fitted.values():
        assert not fingerprints(run.data.images) & secret


def test_what_it_leaves_behind(watched: tuple[Study, dict[str, Fitted], list[Dataset]]) -> None:
    study = watched[0]
    folder = study.folder
    figures = {"accuracy.png", "differences-classical.png", "differences-real.png", "images-2.png", "images-4.png"}
    assert {path.name for path in folder.iterdir()} == figures | {
        "records",
        "made",
        "results.json",
        "results.csv",
        "differences.csv",
        "report.md",
    }
    numbers = json.loads((folder / "results.json").read_text())
    assert numbers["verdict"] == study.verdict
    assert len(numbers["outcomes"]) == len(study.outcomes)
    assert all(o["seconds"] > 0 for o in numbers["outcomes"])
    assert {g["regime"]: g["leaking"] for g in numbers["generators"]} == {
        "subset": False,
        "pool": False,
        "everything": True,
    }
    report = (folder / "report.md").read_text()
    assert study.verdict in report
    assert "LEAKING" in report
    assert "UNLABELLED POOL" in report
    for picture in figures:
        assert f"]({picture})" in report
        with Image.open(folder / picture) as image:
            assert image.info["Source"].startswith("mnistgen augment tiny --data strokes --per-class 2 4")
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert {row["real_fraction"] for row in rows if row["condition"] == "synthetic"} == {"0.5"}
    assert {row["steps"] for row in rows if row["condition"] == "repeated"} == {"9"}
    for path in folder.rglob("*"):
        if path.is_file():
            assert str(folder.parent).encode() not in path.read_bytes(), path


def test_known_numbers_are_of_the_nearest_neighbour(watched: tuple[Study, dict[str, Fitted], list[Dataset]]) -> None:
    study = watched[0]
    for task in study.plan.everything:
        if isinstance(task, NearestNeighbour) and not task.shifted:
            record = study.cache.get(task)
            assert record is not None
            subset = study.context.subsets(task.subset.repetition).take(task.subset.per_class)
            distances = torch.cdist(TEST.images.flatten(1).double(), subset.images.flatten(1).double())
            right = (subset.labels[distances.argmin(1)] == TEST.labels).double().mean()
            assert record.result["accuracy"] == pytest.approx(float(right))
    assert not study.baselines  # they are of MNIST


def test_another_ratio_changes_the_fraction_of_real_images_only_where_that_is_asked(tmp_path: Path) -> None:
    design = {"ratio": (0.5, 3.0), "conditions": ("synthetic", "synthetic-only")}
    for fraction, expected in ((0.25, {8}), ("ratio", {round(32 / 1.5), 8})):
        study = small(tmp_path / str(fraction), real_fraction=fraction, **design)
        assert {c.real for c in of_conditions(study) if c.condition == "synthetic"} == expected
        assert {c.real for c in of_conditions(study) if c.condition == "synthetic-only"} == {0}
        assert {o.real_fraction for o in study.outcomes if o.row.condition == "synthetic"} == {n / 32 for n in expected}
        assert {(o.row.ratio, o.other_images) for o in study.outcomes if o.row.model} == {(0.5, 10), (3.0, 60)}
        drawn = [task for task in study.plan.everything if isinstance(task, SampleImages)]
        assert [task.count for task in drawn] == [60]  # once, for the largest


def test_all_images_have_no_others_beside_them(tmp_path: Path) -> None:
    study = small(tmp_path, per_class=(20, "all"), seeds=1, conditions=("all",), pool=20, ratio=(1.0,))
    gone = {"more-real", "leaking", "pool", "pseudo-labels"}
    assert {o.row.condition for o in study.outcomes if o.row.per_class is None} == set(CONDITIONS) - gone
    assert sum("at all images" in note for note in study.plan.notes) == len(gone)
    assert any("there are 10 further images of the rarest class, not 20" in note for note in study.plan.notes)
    (more,) = [c for c in of_conditions(study) if c.condition == "more-real"]
    assert more.further == 10


# Long runs survive.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("augment")
    arrays = {"x_train": TRAIN.images[:, 0], "x_test": TEST.images[:, 0]}
    labels = {"y_train": TRAIN.labels, "y_test": TEST.labels}
    np.savez(path / "strokes.npz", **{name: tensor.numpy() for name, tensor in {**arrays, **labels}.items()})
    return path


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """The study that nothing interrupts."""
    text = mnistgen(folder, "augment", "tiny", *ARGUMENTS, *CONDITIONS_OF_TWO, "--out", "whole")
    assert "estimate" in text
    assert "verdict     " in text
    return folder / "whole"


def table(out: Path) -> tuple[list[dict[str, str]], str]:
    """What a study has found, without the seconds that it took."""
    with (out / "results.csv").open() as file:
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    return rows, (out / "differences.csv").read_text()


KILLS = {
    # Between the write and the rename, of whichever file is written then.
    "before a rename": """
import os, signal
rename, count = os.replace, 0
def replace(a, b):
    global count
    count += 1
    if count == {k}:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(a, b)
os.replace = replace
""",
    # In the middle of training, in one of the tasks.
    "in a step": """
import os, signal
import mnistgen.training.loop
count = 0
class Killing(mnistgen.training.loop.Stepper):
    def step(self, *arguments):
        global count
        count += 1
        if count == {k}:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(*arguments)
mnistgen.training.loop.Stepper = Killing
""",
}


@pytest.mark.parametrize(("where", "k"), [("before a rename", 15), ("in a step", 30)])
def test_killed_and_resumed_is_as_if_nothing_had_happened(folder: Path, whole: Path, where: str, k: int) -> None:
    out = f"killed-{k}"
    command = ("augment", "tiny", *ARGUMENTS, *CONDITIONS_OF_TWO, "--out", out)
    mnistgen(folder, *command, code=-signal.SIGKILL, script=KILLS[where].format(k=k))
    done = {path: path.stat().st_mtime_ns for path in (folder / out / "records").glob("[!.]*.json")}
    total = len(list((whole / "records").glob("*.json")))
    assert 0 < len(done) < total
    assert not (folder / out / "results.csv").exists()
    text = mnistgen(folder, *command)
    assert f"tasks       {total}, {len(done)} of them done already" in text
    assert {path: path.stat().st_mtime_ns for path in done} == done  # none was done again
    assert table(folder / out) == table(whole)
    assert {p.name for p in (folder / out).rglob("*")} == {p.name for p in whole.rglob("*")}


def test_two_processes_find_what_one_finds(folder: Path, whole: Path) -> None:
    text = two_processes(folder, "augment", "tiny", *ARGUMENTS, *CONDITIONS_OF_TWO, "--out", "two")
    assert text.count("verdict     ") == 1
    assert "by 2 processes" in text
    assert table(folder / "two") == table(whole)
    assert {p.name for p in (folder / "two" / "records").iterdir()} == {p.name for p in (whole / "records").iterdir()}


@dataclass(frozen=True)
class Told(Task):
    """A task that does what it is told."""

    kind = "told"
    word: str
    before: tuple[Task, ...] = ()

    @property
    def name(self) -> str:
        return self.word

    @property
    def dependencies(self) -> tuple[Task, ...]:
        return self.before

    def run(self, context: StudyContext) -> dict[str, Any]:
        order.append(self.word)
        if self.word == "free":  # meanwhile, the other process finishes what it is at
            context.cache.put(Told("theirs"), {}, 1.0, "cpu")
        return {}


order: list[str] = []


def told(folder: Path) -> tuple[StudyContext, Runner]:
    """A process that shares a folder."""
    train, test = dataset(20, 0, "train"), dataset(20, 1, "test")
    context = StudyContext(train, test, {}, folder=folder, seed=0, device=torch.device("cpu"))
    context.cache.open()
    return context, Runner(context.cache, lambda task: 0.0, display=Display("test", quiet=True))


def test_what_has_to_wait_for_another_process_is_put_off(tmp_path: Path) -> None:
    order.clear()
    (context, runner), (other, _) = told(tmp_path), told(tmp_path)
    theirs, mine = Told("theirs"), Told("mine")
    with claimed(other.cache._path(theirs, ".lock", hidden=".")):  # the other process has begun it
        tasks = [Told("waits", (theirs,)), Told("depends", (mine,)), Told("free"), Told("last", (mine, theirs))]
        runner.run(tasks, context)
    assert not context.cache.failures([theirs, mine, *tasks])
    assert order == ["mine", "depends", "free", "last", "waits"]


HOLD = """
import sys, time
from pathlib import Path
from filelock import FileLock
lock = FileLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


def test_what_a_killed_process_had_claimed_is_done_by_another(tmp_path: Path) -> None:
    order.clear()
    context, runner = told(tmp_path)
    path = context.cache.records / f".{context.cache.key(Told('alone'))}.lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert not context.cache.once(Told("alone"), context)
        holder.kill()
    runner.run([Told("alone")], context)
    assert order == ["alone"]
    assert [file.suffix for file in context.cache.records.iterdir()] == [".json"]


DAMAGES: dict[str, Any] = {
    "no accuracy": lambda record: record["result"].pop("accuracy"),
    "accuracy in words": lambda record: record["result"].update(accuracy="high"),
    "accuracy NaN": lambda record: record["result"].update(accuracy=float("nan")),
    "no seconds": lambda record: record.pop("seconds"),
    "seconds a list": lambda record: record.update(seconds=[1]),
    "no result": lambda record: record.pop("result"),
    "another task's": lambda record: record["spec"].update(seed=1),
}


def test_damaged_records_are_done_again_and_that_is_said(tmp_path: Path) -> None:
    plain = small(tmp_path, conditions=("real",))
    task = next(task for task in plain.plan.everything if isinstance(task, Classify) and task.condition == "real")
    path = tmp_path / "records" / f"{plain.cache.key(task)}.json"
    text = path.read_text()

    def damages() -> Iterator[str]:
        for damage in DAMAGES.values():
            record = json.loads(text)
            damage(record)
            yield json.dumps(record)
        yield from ("", "[]", '"text"', "\0", "[" * 100_000)

    for damaged in damages():
        path.write_text(damaged)
        cache = Cache(tmp_path, plain.context.frame)
        assert cache.get(task) is None, damaged[:100]
        assert cache.damaged.keys() == {str(path)}
    said: list[str] = []
    study = small(tmp_path, conditions=("real",), say=said.append)
    assert f"note: {path} is damaged (" in "\n".join(said)
    assert not study.missing
    assert [o.accuracies for o in study.outcomes] == [o.accuracies for o in plain.outcomes]


@pytest.mark.parametrize("only_plan", [False, True])
def test_a_folder_of_other_things_stays_as_it_is(tmp_path: Path, only_plan: bool) -> None:
    for name in ("report.md", ".env.tmpl", "mine.failed"):
        (tmp_path / name).write_text("the user's")
    with pytest.raises(UsageError, match=r"is no folder of a study\. Give --out a new folder"):
        small(tmp_path, only_plan=only_plan)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "mine.failed").write_text("the user's")
    small(tmp_path, conditions=("real",), only_plan=only_plan)
    for name in (".env.tmpl", "mine.failed", "records/mine.failed"):
        assert (tmp_path / name).read_text() == "the user's"


class Failing(Tiny):
    """Raises in its first step."""

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        raise ZeroDivisionError("of the plugin")
        yield


def test_a_model_that_fails_is_left_out_of_the_estimate(tmp_path: Path) -> None:
    said: list[str] = []
    study = small(tmp_path, (Failing, Tiny), conditions=("synthetic",), say=said.append)
    text = "\n".join(said)
    assert "the estimate is without 'generator failing', which fails: " in text
    assert "of the plugin" in text
    assert "estimate  " in text
    assert {o.row.model for o in study.outcomes} >= {"tiny"}
    assert all("failing" in failure.name for failure in study.failures)


def test_a_task_that_fails_ends_nothing_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Frail(Tiny):
        broken = True

        def sample(self, y: Tensor, *, noise: Noise, temperature: float = 1.0) -> Tensor:
            if Frail.broken:
                raise RuntimeError("no more ink")
            return super().sample(y, noise=noise, temperature=temperature)

    design: dict[str, Any] = {"models": (Frail, Tiny), "seeds": 2, "conditions": ("synthetic",)}
    study = small(tmp_path, **design)
    frail = [failure for failure in study.failures if "frail" in failure.name]
    assert len(study.failures) == len(frail) == study.missing == 4  # images and a classifier, twice
    assert all("RuntimeError: no more ink" in f.why for f in frail if f.name.endswith("-images"))
    assert all("depends on r" in failure.why for failure in frail if not failure.name.endswith("-images"))
    assert {o.row.model for o in study.outcomes} == {"", "tiny"}
    report = (tmp_path / "report.md").read_text()
    assert "failed: r0-n2-frail-subset-images: sample() of Frail fails: RuntimeError: no more ink" in report
    assert report.startswith(study._repr_markdown_().rstrip())  # but for the figures
    Frail.broken = False
    study = small(tmp_path, **design)
    assert not study.failures
    assert not study.missing
    assert {o.row.model for o in study.outcomes} == {"", "frail", "tiny"}


def test_a_folder_is_taken_up_with_another_design(tmp_path: Path) -> None:
    first = small(tmp_path, conditions=("synthetic",))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()}
    more = small(tmp_path, per_class=(2, 4), seeds=2, conditions=("synthetic", "affine"), ratio=(1.0, 2.0))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(more.plan.everything) > len(first.plan.everything)
    small(tmp_path, conditions=("synthetic",), classifier_steps=6)  # another recipe: done anew
    names = {path.name for path in (tmp_path / "records").iterdir()}
    assert sum(name.startswith("r0-n2-logistic-real") for name in names) == 2
    damaged = next(path for path in before if "logistic-real" in path.name)  # not one that nothing needs any more
    damaged.write_text("{")
    again = small(tmp_path, conditions=("synthetic",))
    assert not again.missing
    assert json.loads(damaged.read_text())["key"] == damaged.stem


def test_records_of_former_versions_count(tmp_path: Path) -> None:
    design: dict[str, Any] = {"conditions": ("synthetic",)}
    first = small(tmp_path, **design)
    folder = (tmp_path / "records").rename(tmp_path / "cells")
    for path in folder.glob("*.json"):
        record = json.loads(path.read_text())
        record |= {"work": {"train": 5, "test": 100}, "seconds": {"train": 2.0, "test": 1.0}}
        path.write_text(json.dumps(record))
    again = small(tmp_path, only_plan=True, **design)
    assert not again.missing
    assert not again.cache.damaged
    assert [o.accuracies for o in again.outcomes] == [o.accuracies for o in first.outcomes]
    assert again.outcomes[0].seconds == pytest.approx(3.0)


def test_a_larger_ratio_beside_it_leaves_a_result_as_it_is(tmp_path: Path) -> None:
    design: dict[str, Any] = {"conditions": ("synthetic",)}
    small(tmp_path, ratio=(2.0,), **design)
    (path,) = (tmp_path / "records").glob("*-synthetic-tiny-x2-*.json")
    before = path.stat().st_mtime_ns
    study = small(tmp_path, ratio=(2.0, 3.0), **design)
    assert path.stat().st_mtime_ns == before
    accuracy = {o.row.ratio: o.accuracies for o in study.outcomes if o.row.model}
    other = small(tmp_path / "anew", ratio=(2.0, 3.0), **design)  # the same images begin the longer row
    assert {o.row.ratio: o.accuracies for o in other.outcomes if o.row.model} == accuracy


def test_a_budget_is_kept(tmp_path: Path) -> None:
    none = small(tmp_path, budget=1e-6)
    assert none.missing == len(none.plan.everything)
    assert none.verdict.startswith("No verdict")
    assert "still missing" in (tmp_path / "report.md").read_text()
    assert not small(tmp_path, budget=600.0).missing


def test_what_fits_into_a_budget_is_done_though_earlier_tasks_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def long(task: Task) -> bool:
        return isinstance(task, TrainGenerator) and task.regime == "everything"

    with monkeypatch.context() as patch:
        patch.setattr(Costs, "__call__", lambda _, task: 1e6 * long(task))
        study = small(tmp_path, budget=600.0)
    assert long(study.plan.everything[0])
    left = [task for task in study.plan.everything if study.cache.get(task) is None]
    assert sum(map(long, left)) == 1  # one for the whole study
    assert all(long(task) or any(map(long, _all_dependencies(task))) for task in left)
    assert not small(tmp_path, budget=600.0).missing


def test_what_a_finished_task_needed_is_not_made_again(tmp_path: Path) -> None:
    whole = small(tmp_path)
    images = [task for task in whole.plan.everything if isinstance(task, SampleImages)]
    for task in images:
        whole.cache.made(task).unlink()
    small(tmp_path)
    assert images
    assert not any(whole.cache.made(task).exists() for task in images)


def _all_dependencies(task: Task) -> list[Task]:
    return [found for need in task.dependencies for found in (need, *_all_dependencies(need))]


def test_a_plan_says_what_is_asked_and_does_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    study = small(tmp_path / "plan", per_class=PER_CLASS, seeds=2, only_plan=True, say=said.append)
    assert study.missing == len(study.plan.everything)
    assert not (tmp_path / "plan").exists()
    titles = ["question", "models", "classifiers", "sizes", "conditions", "trainings", "tasks", "estimate"]
    assert [line.split()[0] for line in said] == titles
    text = "\n".join(said)
    for part in (
        "does synthetic data help",
        "tiny",
        "logistic",
        "2, 4 real images per class, 2 times",
        "real + synthetic",
    ):
        assert part in text


# Leaks.


def test_one_image_from_outside_the_subset_ends_the_study(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = TrainGenerator.training_images

    def leaky(self: TrainGenerator, context: StudyContext) -> tuple[Dataset, dict[str, Any]]:
        data, about = plain(self, context)
        assert self.subset is not None
        place = context.subsets(self.subset.repetition).places(1, skip=self.subset.per_class or 0)[:1]
        return joined([data, context.train.subset(place)], "train"), about

    monkeypatch.setattr(TrainGenerator, "training_images", leaky)
    text = mnistgen(folder, "augment", "tiny", *ARGUMENTS, "--conditions", "synthetic", "--out", "leak", code=1)
    assert "trained on 1 images from outside the subset of 20" in text
    assert "The study stops" in text
    assert not (folder / "leak" / "report.md").exists()
    assert not list((folder / "leak" / "made").iterdir())
    done = {json.loads(path.read_text())["kind"] for path in (folder / "leak" / "records").glob("*.json")}
    assert not done & {"generator", "images"}


def test_a_generator_of_other_images_is_not_drawn_from(tmp_path: Path) -> None:
    design: dict[str, Any] = {"conditions": ("synthetic",)}
    study = small(tmp_path, **design)
    (generator,) = [task for task in study.plan.everything if isinstance(task, TrainGenerator)]
    path = tmp_path / "records" / f"{study.cache.key(generator)}.json"
    record = json.loads(path.read_text())
    record["result"]["trained_on"] = "0" * 16
    path.write_text(json.dumps(record))
    next((tmp_path / "records").glob("*-synthetic-*.json")).unlink()
    with pytest.raises(LeakageError, match="on other images than the subset"):
        small(tmp_path, **design)


def test_an_image_from_outside_the_training_split_ends_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaky(self: TrainGenerator, context: StudyContext) -> tuple[Dataset, dict[str, Any]]:
        return joined([context.train, context.test.subset(torch.tensor([3]))], "train"), {}

    monkeypatch.setattr(TrainGenerator, "training_images", leaky)
    with pytest.raises(LeakageError, match="1 images that are not in the train split"):
        small(tmp_path, conditions=("leaking",), seeds=1)


# Synthetic images.


class Half(GenerativeModel):
    """Class k is a bright pixel k; half of the time, another one."""

    Config = BaseConfig
    family = "test"
    conditional = True

    def __init__(self, config: BaseConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.scale = torch.nn.Parameter(torch.ones(1))

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        yield Loss(self.scale.square().sum(), self)

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        seen = torch.where(noise.uniform() < 0.5, y, (y + 1) % self.num_classes)
        images = torch.zeros(len(y), 1, 28, 28, dtype=torch.uint8)
        images[torch.arange(len(y)), 0, 0, seen] = 255
        return to_float(images)


def oracle() -> Classifier:
    """Takes the brightest of the first ten pixels, surely."""
    model = build_classifier("logistic")
    with torch.no_grad():
        model.head.weight.copy_(20 * torch.eye(10, 784))
        model.head.bias.zero_()
    return model


def test_the_filter_keeps_what_the_labeller_sees_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainLabeller, "model", lambda self, context: oracle())
    drawn: dict[float, Dataset] = {}
    for least in (0.0, 0.9):
        out = tmp_path / str(least)
        study = small(out, (Half,), per_class=(3,), seeds=1, conditions=("synthetic",), filter=least)
        assert not study.failures
        (task,) = [task for task in study.plan.everything if isinstance(task, SampleImages)]
        record = study.cache.get(task)
        assert record is not None
        drawn[least] = task.images(study.context, 60)
        assert torch.equal(drawn[least].labels, torch.arange(60) % 10)
        assert task.images(study.context, 25).hash == drawn[least].subset(torch.arange(25)).hash
        assert record.result["kept"] == (1 if not least else pytest.approx(60 / record.result["drawn"]))
        labellers = [task for task in study.plan.everything if isinstance(task, TrainLabeller)]
        assert len(labellers) == bool(least)
    right = {least: (d.images[:, 0, 0, :10].argmax(1) == d.labels).double().mean() for least, d in drawn.items()}
    assert right[0.9] == 1
    assert 0.2 < right[0.0] < 0.8
    assert "a cnn trained on the same subset" in (tmp_path / "0.9" / "report.md").read_text()


def test_a_labeller_has_seen_its_subset_alone(watched: tuple[Study, dict[str, Fitted], list[Dataset]]) -> None:
    study, fitted, _ = watched
    for task in study.plan.everything:
        if isinstance(task, TrainLabeller):
            subset = study.context.subsets(task.subset.repetition).take(task.subset.per_class)
            assert fitted[task.name].data.hash == subset.hash


def test_a_filter_that_lets_nothing_through_fails_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainLabeller, "model", lambda self, context: build_classifier("logistic"))
    study = small(tmp_path, (Half,), per_class=(3,), seeds=1, conditions=("synthetic",), filter=0.999)
    assert any("none of class" in failure.why and "--filter" in failure.why for failure in study.failures)
    assert {o.row.condition for o in study.outcomes} == {"real", "classical"}


# Asking for it.


def test_models_that_a_study_cannot_take(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without regard to labels"):
        small(tmp_path, (Duel,))
    with pytest.raises(UsageError, match="named twice"):
        small(tmp_path, (Tiny, Tiny))
    with pytest.raises(UsageError, match="31 images of each class are needed"):
        small(tmp_path, per_class=(31,))


def test_a_models_hyperparameters_can_be_given(tmp_path: Path) -> None:
    study = small(tmp_path, conditions=("synthetic",), configs={"tiny": TinyConfig(latent_dim=5)})
    (generator,) = [task for task in study.plan.everything if isinstance(task, TrainGenerator)]
    assert json.loads(generator.config)["latent_dim"] == 5
    assert json.loads((tmp_path / "results.json").read_text())["design"]["configs"]["tiny"]["latent_dim"] == 5


def test_wrong_usage(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)

    def said(*arguments: str, code: int) -> str:
        assert main(["augment", *arguments]) == code
        return "".join(capsys.readouterr())

    assert "Did you mean 'vae'" in said("vea", code=2)
    assert "--per-class ten" in said("vae", "--per-class", "ten", code=2)
    assert "no length of time" in said("vae", *ARGUMENTS, "--budget", "soon", code=2)
    assert "--generations is -1" in said("vae", "--generations", "-1", code=2)
    assert "note: --loop is called --generations now" in said("vae", "--loop=-1", code=2)
    text = said("--help", code=0)
    for flag in (
        "--per-class",
        "--ratio",
        "--seeds",
        "--classifier",
        "--budget",
        "--conditions",
        "--generations",
        "--mode",
    ):
        assert flag in text
    assert "examples:" in text
    text = mnistgen(folder, "augment", "tiny", *ARGUMENTS, "--out", "planned", "--plan")
    assert "estimate" in text
    assert not (folder / "planned" / "report.md").exists()
