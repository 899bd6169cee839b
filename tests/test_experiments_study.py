"""The study from end to end: pairing, kills, several processes, failures, leaks, and what it leaves behind."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import environment, mnistgen
from PIL import Image
from tiny import Duel, Tiny, TinyConfig, strokes
from torch import Tensor

from mnistgen import BaseConfig, Dataset, GenerativeModel, LeakageError, Loss, Noise, UsageError, augment
from mnistgen.cli import main
from mnistgen.data import to_float
from mnistgen.evaluator import Classifier, build_classifier
from mnistgen.experiments import ARMS, Study, cells
from mnistgen.experiments.cells import Bench, Cell, Classify, Draw, Label, Nearest, Train
from mnistgen.experiments.costs import Costs
from mnistgen.experiments.crew import Alone
from mnistgen.experiments.lab import Lab, Work
from mnistgen.experiments.recipe import BATCH
from mnistgen.experiments.records import Records
from mnistgen.experiments.runner import Runner
from mnistgen.experiments.subsets import fingerprints
from mnistgen.training import Part

PER_CLASS = (2, 4)
ARGUMENTS = ("--per-class", "2", "--ratio", "2", "--seeds", "2", "--classifier", "logistic")
ARGUMENTS += ("--generator-steps", "4", "--classifier-steps", "5", "--data", "strokes.npz", "--quiet")
ARMS_OF_TWO = ("--arms", "synthetic", "leaking")


def dataset(n: int, seed: int, split: str) -> Dataset:
    return Dataset(*strokes(n, seed), num_classes=10, name="strokes", split=split)


TRAIN, TEST = dataset(300, 0, "train"), dataset(100, 1, "test")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The networks are small, and more threads would fight over them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small(folder: Path, models: Sequence[type[GenerativeModel]] = (Tiny,), **changes: Any) -> Study:
    design = {
        "per_class": PER_CLASS,
        "ratio": (2.0,),
        "seeds": 2,
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
    """A study of every arm, all that was trained in it, and all that a classifier was tested on."""
    fitted: dict[str, Fitted] = {}
    tested: list[Dataset] = []
    fit, evaluate, current = Lab.fit, cells.evaluate, [""]

    def watch(self: Lab, model: Any, data: Dataset, *, parts: Any = None, **rest: Any) -> Any:
        start = next(model.parameters()).detach().clone()
        fitted[current[0]] = Fitted(current[0], data, rest["steps"], rest["seed"], parts, start)
        return fit(self, model, data, parts=parts, **rest)

    def look(model: Classifier, data: Dataset) -> Any:
        tested.append(data)
        return evaluate(model, data)

    def naming(run: Any) -> Any:
        def named(self: Any, bench: Bench) -> Any:
            current[0] = self.name
            return run(self, bench)

        return named

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lab, "fit", watch)
        patch.setattr(cells, "evaluate", look)
        for kind in (Label, Train, Classify):
            patch.setattr(kind, "run", naming(kind.run))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        study = small(tmp_path_factory.mktemp("watched"), arms=("all",), pool=40)
        torch.set_num_threads(threads)
    return study, fitted, tested


def of_arms(study: Study) -> list[Classify]:
    return [cell for cell in study.plan.everything if isinstance(cell, Classify)]


def test_every_arm_is_there_at_every_size(watched: tuple[Study, dict[str, Fitted], list[Dataset]]) -> None:
    study = watched[0]
    assert not study.failures
    assert not study.missing
    assert {(o.row.arm, o.row.per_class) for o in study.outcomes} == {(arm, n) for arm in ARMS for n in PER_CLASS}
    assert all(o.accuracy.n == 2 for o in study.outcomes)
    assert {c.against for c in study.comparisons} == {"classical", "real"}


def test_arms_are_paired_and_of_equal_length(watched: tuple[Study, dict[str, Fitted], list[Dataset]]) -> None:
    study, fitted, _ = watched
    for repetition in range(2):
        for size in PER_CLASS:
            here = [c for c in of_arms(study) if c.subset.repetition == repetition and c.subset.per_class == size]
            runs = {cell.arm: fitted[cell.name] for cell in here}
            assert set(runs) == set(ARMS)
            assert {run.steps for arm, run in runs.items() if arm != "repeated"} == {5}
            assert runs["repeated"].steps == 5 + 4
            assert len({run.seed for run in runs.values()}) == 1
            assert all(torch.equal(run.start, runs["real"].start) for run in runs.values())
            assert {cell.batch for cell in here} == {BATCH}
            subset = study.lab.subsets(repetition).take(size)
            for cell in here:
                run, arm = runs[cell.arm], ARMS[cell.arm]
                assert json.loads(cell.config)["rotation"] == arm.distortion.rotation
                assert json.loads(cell.config)["elastic"] == arm.distortion.elastic
                if arm.subset:
                    assert torch.equal(run.data.images[: len(subset)], subset.images)
                    assert torch.equal(run.data.labels[: len(subset)], subset.labels)
                if arm.name == "synthetic-only":
                    assert len(run.data) == 2 * len(subset)
                    assert not fingerprints(run.data.images) & fingerprints(TRAIN.images)
                elif arm.other in ("subset", "pool", "everything", "real"):
                    assert run.parts == [Part(len(subset), BATCH // 2), Part(2 * len(subset), BATCH // 2)]
                elif not arm.other:
                    assert run.parts is None
                    assert run.data.hash == subset.hash
    seeds = {(c.subset.repetition, c.subset.per_class): c.seed for c in of_arms(study)}
    assert len(set(seeds.values())) == len(seeds)


def test_generators_see_what_their_arm_allows(watched: tuple[Study, dict[str, Fitted], list[Dataset]]) -> None:
    study, fitted, _ = watched
    trained = [cell for cell in study.plan.everything if isinstance(cell, Train)]
    assert sorted(cell.regime for cell in trained) == ["everything", *["pool"] * 4, *["subset"] * 4]
    real = fingerprints(TRAIN.images)
    for cell in trained:
        data = fitted[cell.name].data
        if cell.subset is None:
            assert data.hash == TRAIN.hash
            continue
        subset = study.lab.subsets(cell.subset.repetition).take(cell.subset.per_class)
        mine = fingerprints(subset.images, subset.labels)
        if cell.regime == "subset":
            assert fingerprints(data.images, data.labels) == mine
        else:
            assert torch.equal(data.labels[: len(subset)], subset.labels)
            rest = data.images[len(subset) :]
            assert not fingerprints(rest) & fingerprints(subset.images)
            assert not fingerprints(rest) - real
            assert len(rest) <= 40
    more = next(c for c in of_arms(study) if c.arm == "more-real")
    subset = study.lab.subsets(more.subset.repetition).take(more.subset.per_class)
    further = fitted[more.name].data.images[len(subset) :]
    assert not fingerprints(further) - (real - fingerprints(subset.images))


def test_the_test_split_is_looked_at_once_by_each_classifier(
    watched: tuple[Study, dict[str, Fitted], list[Dataset]],
) -> None:
    study, fitted, tested = watched
    assert [data.hash for data in tested] == [TEST.hash] * len(of_arms(study))
    secret = fingerprints(TEST.images)
    for run in fitted.values():
        assert not fingerprints(run.data.images) & secret


def test_what_it_leaves_behind(watched: tuple[Study, dict[str, Fitted], list[Dataset]]) -> None:
    study = watched[0]
    folder = study.folder
    figures = {"accuracy.png", "differences-classical.png", "differences-real.png", "images-2.png", "images-4.png"}
    assert {path.name for path in folder.iterdir()} == figures | {
        "cells",
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
    assert {row["real_share"] for row in rows if row["arm"] == "synthetic"} == {"0.5"}
    assert {row["steps"] for row in rows if row["arm"] == "repeated"} == {"9"}
    for path in folder.rglob("*"):
        if path.is_file():
            assert str(folder.parent).encode() not in path.read_bytes(), path


def test_known_numbers_are_of_the_nearest_neighbour(watched: tuple[Study, dict[str, Fitted], list[Dataset]]) -> None:
    study = watched[0]
    for cell in study.plan.everything:
        if isinstance(cell, Nearest) and not cell.shifted:
            record = study.records.get(cell)
            assert record is not None
            subset = study.lab.subsets(cell.subset.repetition).take(cell.subset.per_class)
            distances = torch.cdist(TEST.images.flatten(1).double(), subset.images.flatten(1).double())
            right = (subset.labels[distances.argmin(1)] == TEST.labels).double().mean()
            assert record.result["accuracy"] == pytest.approx(float(right))
    assert not study.known  # they are of MNIST


def test_another_ratio_changes_the_share_of_real_images_only_where_that_is_asked(tmp_path: Path) -> None:
    design = {"per_class": (2,), "seeds": 1, "ratio": (0.5, 3.0), "arms": ("synthetic", "synthetic-only")}
    for share, expected in ((0.25, {8}), ("ratio", {round(32 / 1.5), 8})):
        study = small(tmp_path / str(share), real_share=share, **design)
        assert {c.real for c in of_arms(study) if c.arm == "synthetic"} == expected
        assert {c.real for c in of_arms(study) if c.arm == "synthetic-only"} == {0}
        assert {o.real_share for o in study.outcomes if o.row.arm == "synthetic"} == {n / 32 for n in expected}
        assert {(o.row.ratio, o.other_images) for o in study.outcomes if o.row.model} == {(0.5, 10), (3.0, 60)}
        drawn = [cell for cell in study.plan.everything if isinstance(cell, Draw)]
        assert [cell.count for cell in drawn] == [60]  # once, for the largest


def test_all_images_have_no_others_beside_them(tmp_path: Path) -> None:
    study = small(tmp_path, per_class=(20, "all"), seeds=1, arms=("all",), pool=20, ratio=(1.0,))
    gone = {"more-real", "leaking", "pool", "pseudo-labels"}
    assert {o.row.arm for o in study.outcomes if o.row.per_class is None} == set(ARMS) - gone
    assert sum("at all images" in note for note in study.plan.notes) == len(gone)
    assert any("there are 10 further images of the rarest class, not 20" in note for note in study.plan.notes)
    (more,) = [c for c in of_arms(study) if c.arm == "more-real"]
    assert more.further == 10


# Long runs survive.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("augment")
    arrays = {"x_train": TRAIN.images[:, 0], "x_test": TEST.images[:, 0]}
    labels = {"y_train": TRAIN.labels, "y_test": TEST.labels}
    np.savez(path / "strokes.npz", **{name: tensor.numpy() for name, tensor in {**arrays, **labels}.items()})
    return path


def here(folder: Path, *arguments: str) -> str:
    """What a command prints that is run in this process, as `mnistgen` of `command.py` runs it in another one."""
    installed = environment(folder)["PYTHONPATH"].split(os.pathsep)[0]
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as text:
        patch.chdir(folder)
        patch.syspath_prepend(installed)
        torch.set_num_threads(1)
        assert main(list(arguments)) == 0
    torch.set_num_threads(threads)
    return text.getvalue()


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """The study that nothing interrupts."""
    text = here(folder, "augment", "tiny", *ARGUMENTS, *ARMS_OF_TWO, "--out", "whole")
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
    # In the middle of training, in one of the cells.
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
    command = ("augment", "tiny", *ARGUMENTS, *ARMS_OF_TWO, "--out", out)
    mnistgen(folder, *command, code=-signal.SIGKILL, script=KILLS[where].format(k=k))
    done = {path: path.stat().st_mtime_ns for path in (folder / out / "cells").glob("[!.]*.json")}
    total = len(list((whole / "cells").glob("*.json")))
    assert 0 < len(done) < total
    assert not (folder / out / "results.csv").exists()
    text = here(folder, *command)
    assert f"cells       {total}, {len(done)} of them done already" in text
    assert {path: path.stat().st_mtime_ns for path in done} == done  # none was done again
    assert table(folder / out) == table(whole)
    assert {p.name for p in (folder / out).rglob("*")} == {p.name for p in whole.rglob("*")}


def test_two_processes_find_what_one_finds(folder: Path, whole: Path) -> None:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mnistgen"]
    done = subprocess.run(
        [sys.executable, *command, "augment", "tiny", *ARGUMENTS, *ARMS_OF_TWO, "--out", "two"],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("verdict     ") == 1
    assert "by 2 processes" in done.stdout
    assert table(folder / "two") == table(whole)
    assert {p.name for p in (folder / "two" / "cells").iterdir()} == {p.name for p in (whole / "cells").iterdir()}


@dataclass(frozen=True)
class Task(Cell):
    """A cell that does what it is told."""

    kind = "task"
    word: str
    before: tuple[Cell, ...] = ()

    @property
    def name(self) -> str:
        return self.word

    def needs(self) -> tuple[Cell, ...]:
        return self.before

    def amounts(self, lab: Lab) -> dict[str, float]:
        return {}

    def run(self, bench: Bench) -> dict[str, Any]:
        order.append(self.word)
        if self.word == "free":  # meanwhile, the other process finishes what it is at
            bench.records.put(Task("theirs"), {}, Work(), "cpu")
        return {}


order: list[str] = []


def test_what_has_to_wait_for_another_process_is_put_off(tmp_path: Path) -> None:
    order.clear()
    lab = Lab(dataset(20, 0, "train"), dataset(20, 1, "test"), {}, seed=0, device=torch.device("cpu"))
    records, crew = Records(tmp_path, lab.frame), Alone()
    records.open()
    theirs, mine = Task("theirs"), Task("mine")
    crew.count(records.key(theirs))  # the other process has begun it
    tasks = [Task("waits", (theirs,)), Task("needs", (mine,)), Task("free"), Task("last", (mine, theirs))]
    assert not Runner(lab, records, crew, Costs(lab, {})).run(tasks, [theirs, mine, *tasks])
    assert order == ["mine", "needs", "free", "waits", "last"]


DAMAGES: dict[str, Any] = {
    "no accuracy": lambda record: record["result"].pop("accuracy"),
    "accuracy in words": lambda record: record["result"].update(accuracy="high"),
    "accuracy NaN": lambda record: record["result"].update(accuracy=float("nan")),
    "no seconds": lambda record: record.update(seconds={}),
    "seconds a list": lambda record: record.update(seconds=[1]),
    "no result": lambda record: record.pop("result"),
    "another cell's": lambda record: record["spec"].update(seed=1),
}


def test_damaged_records_are_done_again_and_that_is_said(tmp_path: Path) -> None:
    plain = small(tmp_path, per_class=(2,), seeds=1, arms=("real",))
    cell = next(cell for cell in plain.plan.everything if isinstance(cell, Classify) and cell.arm == "real")
    path = tmp_path / "cells" / f"{plain.records.key(cell)}.json"
    text = path.read_text()

    def damages() -> Iterator[str]:
        for damage in DAMAGES.values():
            record = json.loads(text)
            damage(record)
            yield json.dumps(record)
        yield from ("", "[]", '"text"', "\0", "[" * 100_000)

    for damaged in damages():
        path.write_text(damaged)
        records = Records(tmp_path, plain.lab.frame)
        assert records.get(cell) is None, damaged[:100]
        assert records.damaged.keys() == {str(path)}
    said: list[str] = []
    study = small(tmp_path, per_class=(2,), seeds=1, arms=("real",), say=said.append)
    assert f"note: {path} is damaged (" in "\n".join(said)
    assert not study.missing
    assert [o.accuracies for o in study.outcomes] == [o.accuracies for o in plain.outcomes]


@pytest.mark.parametrize("only_plan", [False, True])
def test_a_folder_of_other_things_stays_as_it_is(tmp_path: Path, only_plan: bool) -> None:
    for name in ("report.md", ".env.tmpl", "mine.failed"):
        (tmp_path / name).write_text("the user's")
    with pytest.raises(UsageError, match=r"is no folder of a study\. Give --out a new folder"):
        small(tmp_path, only_plan=only_plan)
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "mine.failed").write_text("the user's")
    small(tmp_path, per_class=(2,), seeds=1, arms=("real",), only_plan=only_plan)
    for name in (".env.tmpl", "mine.failed", "cells/mine.failed"):
        assert (tmp_path / name).read_text() == "the user's"


class Failing(Tiny):
    """Raises in its first step."""

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        raise ZeroDivisionError("of the plugin")
        yield


def test_a_model_that_fails_is_left_out_of_the_estimate(tmp_path: Path) -> None:
    said: list[str] = []
    study = small(tmp_path, (Failing, Tiny), per_class=(2,), seeds=1, arms=("synthetic",), say=said.append)
    text = "\n".join(said)
    assert "the estimate is without 'train failing', which fails: " in text
    assert "of the plugin" in text
    assert "estimate  " in text
    assert {o.row.model for o in study.outcomes} >= {"tiny"}
    assert all("failing" in failure.name for failure in study.failures)


def test_a_cell_that_fails_ends_nothing_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Frail(Tiny):
        broken = True

        def sample(self, y: Tensor, *, noise: Noise, temperature: float = 1.0) -> Tensor:
            if Frail.broken:
                raise RuntimeError("no more ink")
            return super().sample(y, noise=noise, temperature=temperature)

    design: dict[str, Any] = {"models": (Frail, Tiny), "per_class": (2,), "arms": ("synthetic",)}
    study = small(tmp_path, **design)
    frail = [failure for failure in study.failures if "frail" in failure.name]
    assert len(study.failures) == len(frail) == study.missing == 4  # images and a classifier, twice
    assert all("RuntimeError: no more ink" in f.why for f in frail if f.name.endswith("-images"))
    assert all("needs r" in failure.why for failure in frail if not failure.name.endswith("-images"))
    assert {o.row.model for o in study.outcomes} == {"", "tiny"}
    report = (tmp_path / "report.md").read_text()
    assert "failed: r0-n2-frail-subset-images: sample() of Frail fails: RuntimeError: no more ink" in report
    Frail.broken = False
    study = small(tmp_path, **design)
    assert not study.failures
    assert not study.missing
    assert {o.row.model for o in study.outcomes} == {"", "frail", "tiny"}


def test_a_folder_is_taken_up_with_another_design(tmp_path: Path) -> None:
    first = small(tmp_path, per_class=(2,), seeds=1, arms=("synthetic",))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    more = small(tmp_path, per_class=(2, 4), seeds=2, arms=("synthetic", "affine"), ratio=(1.0, 2.0))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(more.plan.everything) > len(first.plan.everything)
    small(tmp_path, per_class=(2,), seeds=1, arms=("synthetic",), classifier_steps=6)  # another recipe: done anew
    names = {path.name for path in (tmp_path / "cells").iterdir()}
    assert sum(name.startswith("r0-n2-logistic-real") for name in names) == 2
    damaged = next(path for path in before if "logistic-real" in path.name)  # not one that nothing needs any more
    damaged.write_text("{")
    again = small(tmp_path, per_class=(2,), seeds=1, arms=("synthetic",))
    assert not again.missing
    assert json.loads(damaged.read_text())["key"] == damaged.stem


def test_a_larger_ratio_beside_it_leaves_a_result_as_it_is(tmp_path: Path) -> None:
    design: dict[str, Any] = {"per_class": (2,), "seeds": 1, "arms": ("synthetic",)}
    small(tmp_path, ratio=(2.0,), **design)
    (path,) = (tmp_path / "cells").glob("*-synthetic-tiny-x2-*.json")
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


def test_what_fits_into_a_budget_is_done_though_earlier_cells_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def long(cell: Cell) -> bool:
        return isinstance(cell, Train) and cell.regime == "everything"

    with monkeypatch.context() as patch:
        patch.setattr(Costs, "seconds", lambda _, cell: 1e6 * long(cell))
        study = small(tmp_path, budget=600.0)
    assert long(study.plan.everything[0])
    left = [cell for cell in study.plan.everything if study.records.get(cell) is None]
    assert sum(map(long, left)) == 1  # one for the whole study
    assert all(long(cell) or any(map(long, _all_needs(cell))) for cell in left)
    assert not small(tmp_path, budget=600.0).missing


def test_what_a_finished_cell_needed_is_not_made_again(tmp_path: Path) -> None:
    whole = small(tmp_path)
    images = [cell for cell in whole.plan.everything if isinstance(cell, Draw)]
    for cell in images:
        whole.records.made(cell).unlink()
    small(tmp_path)
    assert images
    assert not any(whole.records.made(cell).exists() for cell in images)


def _all_needs(cell: Cell) -> list[Cell]:
    return [found for need in cell.needs() for found in (need, *_all_needs(need))]


def test_a_plan_says_what_is_asked_and_does_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    study = small(tmp_path / "plan", only_plan=True, say=said.append)
    assert study.missing == len(study.plan.everything)
    assert not (tmp_path / "plan").exists()
    titles = ["question", "models", "classifiers", "sizes", "arms", "trainings", "cells", "estimate"]
    assert [line.split()[0] for line in said] == titles
    text = "\n".join(said)
    for part in (
        "does synthetic data help",
        "tiny",
        "logistic",
        "2, 4 real images a class, 2 times",
        "real + synthetic",
    ):
        assert part in text


# Leaks.

ONE_MORE = """
from mnistgen.experiments import cells
plain = cells.Train.training_images
def leaky(self, bench):
    data, about = plain(self, bench)
    place = bench.lab.subsets(self.subset.repetition).places(1, skip=self.subset.per_class)[:1]
    return cells.joined(data, bench.lab.train.subset(place)), about
cells.Train.training_images = leaky
"""


def test_one_image_from_outside_the_subset_ends_the_study(folder: Path) -> None:
    text = mnistgen(
        folder, "augment", "tiny", *ARGUMENTS, "--arms", "synthetic", "--out", "leak", code=1, script=ONE_MORE
    )
    assert "trained on 1 images from outside the subset of 20" in text
    assert "The study stops" in text
    assert not (folder / "leak" / "report.md").exists()
    assert not list((folder / "leak" / "made").iterdir())
    done = {json.loads(path.read_text())["kind"] for path in (folder / "leak" / "cells").glob("*.json")}
    assert not done & {"generator", "images"}


def test_a_generator_of_other_images_is_not_drawn_from(tmp_path: Path) -> None:
    design: dict[str, Any] = {"per_class": (2,), "seeds": 1, "arms": ("synthetic",)}
    study = small(tmp_path, **design)
    (generator,) = [cell for cell in study.plan.everything if isinstance(cell, Train)]
    path = tmp_path / "cells" / f"{study.records.key(generator)}.json"
    record = json.loads(path.read_text())
    record["result"]["trained_on"] = "0" * 16
    path.write_text(json.dumps(record))
    next((tmp_path / "cells").glob("*-synthetic-*.json")).unlink()
    with pytest.raises(LeakageError, match="on other images than the subset"):
        small(tmp_path, **design)


def test_an_image_from_outside_the_training_split_ends_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaky(self: Train, bench: Bench) -> tuple[Dataset, dict[str, Any]]:
        return cells.joined(bench.lab.train, bench.lab.test.subset(torch.tensor([3]))), {}

    monkeypatch.setattr(Train, "training_images", leaky)
    with pytest.raises(LeakageError, match="1 images that are not in the train split"):
        small(tmp_path, arms=("leaking",), seeds=1)


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
    monkeypatch.setattr(Label, "model", lambda self, bench: oracle())
    drawn: dict[float, Dataset] = {}
    for least in (0.0, 0.9):
        out = tmp_path / str(least)
        study = small(out, (Half,), per_class=(3,), seeds=1, arms=("synthetic",), filter=least)
        assert not study.failures
        (cell,) = [cell for cell in study.plan.everything if isinstance(cell, Draw)]
        record = study.records.get(cell)
        assert record is not None
        bench = Bench(study.lab, study.records, Work(), lambda done: None)
        drawn[least] = cell.images(bench, 60)
        assert torch.equal(drawn[least].labels, torch.arange(60) % 10)
        assert cell.images(bench, 25).hash == drawn[least].subset(torch.arange(25)).hash
        assert record.result["kept"] == (1 if not least else pytest.approx(60 / record.result["drawn"]))
        labellers = [cell for cell in study.plan.everything if isinstance(cell, Label)]
        assert len(labellers) == bool(least)
    right = {least: (d.images[:, 0, 0, :10].argmax(1) == d.labels).double().mean() for least, d in drawn.items()}
    assert right[0.9] == 1
    assert 0.2 < right[0.0] < 0.8
    assert "a cnn trained on the same subset" in (tmp_path / "0.9" / "report.md").read_text()


def test_a_labeller_has_seen_its_subset_alone(watched: tuple[Study, dict[str, Fitted], list[Dataset]]) -> None:
    study, fitted, _ = watched
    for cell in study.plan.everything:
        if isinstance(cell, Label):
            subset = study.lab.subsets(cell.subset.repetition).take(cell.subset.per_class)
            assert fitted[cell.name].data.hash == subset.hash


def test_a_filter_that_lets_nothing_through_fails_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Label, "model", lambda self, bench: build_classifier("logistic"))
    study = small(tmp_path, (Half,), per_class=(3,), seeds=1, arms=("synthetic",), filter=0.999)
    assert any("none of class" in failure.why and "--filter" in failure.why for failure in study.failures)
    assert {o.row.arm for o in study.outcomes} == {"real", "classical"}


# Asking for it.


def test_models_that_a_study_cannot_take(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without regard to labels"):
        small(tmp_path, (Duel,))
    with pytest.raises(UsageError, match="named twice"):
        small(tmp_path, (Tiny, Tiny))
    with pytest.raises(UsageError, match="31 images of each class are needed"):
        small(tmp_path, per_class=(31,))


def test_a_models_hyperparameters_can_be_given(tmp_path: Path) -> None:
    study = small(tmp_path, per_class=(2,), seeds=1, arms=("synthetic",), configs={"tiny": TinyConfig(latent_dim=5)})
    (generator,) = [cell for cell in study.plan.everything if isinstance(cell, Train)]
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
    assert "--loop is -1" in said("vae", "--loop", "-1", code=2)
    text = said("--help", code=0)
    for flag in ("--per-class", "--ratio", "--seeds", "--classifier", "--budget", "--arms", "--loop", "--mode"):
        assert flag in text
    assert "examples:" in text
    text = said("vae", *ARGUMENTS, "--out", "planned", "--plan", code=0)
    assert "estimate" in text
    assert not (folder / "planned" / "report.md").exists()
