"""The folder of a run: nothing in it that the run has not made is touched, and a run is either there or not."""

import io
import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import environment, same_weights
from matplotlib.figure import Figure
from PIL import Image
from tiny import Tiny, blobs

from mnistgen import UsageError, fit, load, save
from mnistgen.checkpoint import load_state, read_checkpoint, save_state
from mnistgen.cli import main, training_run
from mnistgen.cli.run_folder import RunFolder
from mnistgen.cli.train import GeneratorOptions
from mnistgen.cli.training_run import RunWriter
from mnistgen.curves import curves, read_log
from mnistgen.errors import DamagedRunError, MnistgenError
from mnistgen.training.schedule import Length

Command = Callable[..., str]
TRAIN = ("train", "tiny", "--data", "blobs.npz", "--validation", "20", "--quiet", "--device", "cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("home")
    data = blobs(60)
    np.savez(path / "blobs.npz", images=data.images[:, 0].numpy(), labels=data.labels.numpy())
    environment(path)  # an installed distribution with the models of tiny.py
    return path


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run one command in this process, in `home`."""
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home / "site"))

    def command(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        ended = main(list(arguments))
        text = "".join(capsys.readouterr())
        assert ended == code, text
        return text

    return command


@pytest.fixture(scope="module")
def original(home: Path) -> Path:
    """A finished run of six steps with frames and kept checkpoints; `copy` makes more of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.syspath_prepend(str(home / "site"))
        assert main([*TRAIN, "--steps", "6", "--keep-every", "2", "--validate-every", "2", "--out", "original"]) == 0
    return home / "original"


@pytest.fixture
def copy(home: Path, original: Path, tmp_path: Path) -> Iterator[Path]:
    path = home / f"copy-{tmp_path.name}"
    shutil.copytree(original, path)
    yield path
    shutil.rmtree(path)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# What is not of the run.

FOREIGN = (
    ".env.tmpl",
    ".notes.tmp",
    "frames/00000001.png",
    "step-00000007.safetensors",
    "best.safetensors",
    "log.jsonl",
)


@pytest.mark.parametrize("name", [*FOREIGN, "thesis.tex", "run.json"])
@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_a_folder_of_other_things_is_refused_and_left_alone(
    home: Path, tmp_path: Path, run: Command, name: str, flags: tuple[str, ...]
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    text = run(*TRAIN, "--steps", "1", "--out", str(tmp_path), *flags, code=2)
    assert f"{tmp_path}: holds what no training run has made ({name.partition('/')[0]})" in text
    assert contents(tmp_path) == {name: b"precious"}


def test_what_others_put_into_a_runs_folder_stays(copy: Path, run: Command) -> None:
    names = ("notes.txt", ".env.tmpl", "step-0000007.safetensors", "frames/own.png", ".mnistgen-notes")
    (copy / "frames").mkdir()
    for name in names:
        (copy / name).write_text("precious")
    (copy / ".mnistgen-abcdefgh.tmp.png").write_text("of a killed process")
    run("train", "tiny", "--resume", "--out", str(copy))
    run(*TRAIN, "--steps", "2", "--out", str(copy), "--overwrite")
    assert read_checkpoint(copy).steps == 2
    left = contents(copy)
    assert {name for name in left if left[name] == b"precious"} == set(names)
    core = {"model.safetensors", "best.safetensors", "resume.pt", "log.jsonl", "run.json", "manifest.json"}
    assert set(left) - set(names) == {*core, "grid.png", "reconstructions.png", "curves.png"}


def test_what_is_in_the_way_of_a_run_is_told_before_it_begins(copy: Path, run: Command) -> None:
    own = copy / "step-00000009.safetensors"
    own.write_text("precious")
    before = contents(copy)
    for flags in (("train", "tiny", "--resume"), (*TRAIN, "--steps", "2", "--overwrite")):
        assert f"{own}: is in the way, and not of this run" in run(*flags, "--out", str(copy), code=2)
        assert contents(copy) == before


def test_a_picture_elsewhere_is_not_replaced_unasked(home: Path, tmp_path: Path, run: Command) -> None:
    (tmp_path / "grid.png").write_text("of another run")
    flags = (*TRAIN, "--steps", "1", "--out", str(tmp_path / "run"), "--samples", str(tmp_path))
    assert "grid.png: is in the way, and not of this run" in run(*flags, code=2)
    assert not (tmp_path / "run").exists()
    text = run(*flags, "--overwrite")
    assert Image.open(tmp_path / "grid.png").size[0] > 100
    assert f"pictures    {tmp_path / 'grid.png'}" in text
    (tmp_path / "grid.png").unlink()
    assert f"made what was missing: {tmp_path / 'grid.png'}" in run("train", "tiny", "--resume", *flags[-4:])


def test_a_manifest_removes_nothing_outside_its_folder(copy: Path, tmp_path: Path, run: Command) -> None:
    (tmp_path / "precious").write_text("precious")
    for name in (str(tmp_path / "precious"), os.path.relpath(tmp_path / "precious", copy)):
        assert (copy / name).exists()
        names = [path.name for path in copy.iterdir()]
        (copy / "manifest.json").write_text(json.dumps({"files": [*names, name]}))
        RunFolder(copy).forget([name])
        run(*TRAIN, "--steps", "1", "--out", str(copy), "--overwrite")
    assert (tmp_path / "precious").read_text() == "precious"


def test_pictures_and_the_closing_lines_are_of_this_run_alone(home: Path, run: Command) -> None:
    (home / "samples" / "tiny-blobs-npz").mkdir(parents=True, exist_ok=True)
    (home / "samples" / "tiny-blobs-npz" / "grid.png").write_text("of another run")
    text = run(*TRAIN, "--steps", "1", "--validation", "0", "--out", "alone")
    assert "pictures    alone/grid.png, alone/curves.png\n" in text
    assert (home / "samples" / "tiny-blobs-npz" / "grid.png").read_text() == "of another run"
    text = run("evaluator", "train", "logistic", "--data", "blobs.npz", "--steps", "1", "--quiet")
    curve = "checkpoints/evaluators/logistic-blobs-npz/curves.png"
    assert f"curves      {curve}\n" in text
    assert (home / curve).is_file()


# What is refused changes nothing.

REFUSED = {
    "device": ("--device", "nonsense"),
    "lengths": ("--steps", "5", "--budget", "5s"),
    "start": ("--init", "nowhere"),
    "config": ("--lr", "-1"),
    "data": ("--data", "nowhere.npz"),
    "validation": ("--validation", "60"),
    "contradiction": ("--resume",),
}
RUNS_INTO = ("--data", "--validation")  # which are found to be wrong, and not used wrongly


@pytest.mark.parametrize("flags", REFUSED.values(), ids=REFUSED)
def test_a_refused_overwrite_changes_nothing(copy: Path, run: Command, flags: tuple[str, ...]) -> None:
    before = contents(copy)
    run(*TRAIN, "--out", str(copy), "--overwrite", *flags, code=1 if flags[0] in RUNS_INTO else 2)
    assert contents(copy) == before


@pytest.mark.parametrize("flags", [("--lr", "0.1"), ("--seed", "1"), ("--steps", "7"), ("--device", "nonsense")])
def test_a_refused_resume_changes_nothing(copy: Path, run: Command, flags: tuple[str, ...]) -> None:
    before = contents(copy)
    run("train", "tiny", "--resume", "--out", str(copy), *flags, code=2 if flags[0] == "--device" else 1)
    assert contents(copy) == before
    assert "finished already" in run("train", "tiny", "--resume", "--out", str(copy))


def test_a_run_that_fails_at_once_leaves_no_folder(home: Path, run: Command, tmp_path: Path) -> None:
    run(*TRAIN, "--steps", "1", "--out", str(tmp_path / "a" / "b"), "--device", "nonsense", code=2)
    assert not (tmp_path / "a").exists()


NUMBERS = (
    "--patience -1", "--patience 0", "--save-every nan", "--save-every inf", "--save-every -1", "--keep-every 0",
    "--validate-every 0", "--validate-every -5", "--validation -1", "--steps 0", "--steps -3", "--monitor-every -1",
    "--steps 1000000000001", "--save-every 1e13",
)  # fmt: skip


@pytest.mark.parametrize("flags", NUMBERS)
def test_a_number_that_makes_no_sense_is_named(flags: str) -> None:
    flag, value = flags.split()
    kind = float if flag == "--save-every" else int
    with pytest.raises(UsageError, match=rf"^{flag} is {kind(value)}; it must be from [01] to 1000000000000"):
        GeneratorOptions(**{flag[2:].replace("-", "_"): kind(value)})


@pytest.mark.parametrize("text", ["", " ", "soon", "0s", "-5m", "nan", "inf", "9" * 400, "5 m 3"])
def test_a_budget_that_is_no_time_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="is no length of time"):
        GeneratorOptions(budget=text)


# An old run goes when the new one is there.


def test_the_old_run_stays_until_the_new_one_is_saved(
    copy: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(copy)
    plain = Tiny.losses

    def losses(self: Tiny, x: torch.Tensor, y: torch.Tensor) -> Iterator[Any]:
        for loss in plain(self, x, y):
            yield loss._replace(value=loss.value / (int(self.seen) != 16 * 3))

    monkeypatch.setattr(Tiny, "losses", losses)
    flags = (*TRAIN, "--steps", "6", "--validate-every", "1", "--out", str(copy), "--overwrite")
    assert "not finite at step 3" in run(*flags, code=1)
    assert contents(copy) == before
    assert "not finite at step 3" in run(*flags, "--save-every", "0", code=1)
    assert read_checkpoint(copy).steps == 2
    assert not list(copy.glob("step-*"))
    assert [record["step"] for record in read_log(copy / "log.jsonl")] == [1, 2]


class KilledError(BaseException):
    """The process dies here."""


def test_killed_while_one_run_replaces_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever that is, there is the old run, or after the next start the new one, and nothing of the other."""
    old = {"resume.pt": "old", "model.safetensors": "old", "run.json": "old", "step-00000002.safetensors": "old"}
    old |= {"frames/00000001.png": "old"}
    new = {"resume.pt": "new", "model.safetensors": "new", "run.json": "new", "frames/00000003.png": "new"}
    plain, unlink = Path.replace, Path.unlink

    def make(folder: RunFolder, files: dict[str, str]) -> None:
        folder.begin()
        for name, text in files.items():
            path = folder.claim(name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        folder.settle()

    seen = set()
    for k in range(100):
        path = tmp_path / str(k)
        folder = RunFolder(path)
        with folder.locked():
            make(folder, old)
        (path / "notes.txt").write_text("precious")
        left = k

        def killing(method: Callable[..., Any]) -> Callable[..., Any]:
            def act(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise KilledError
                return method(*arguments, **options)

            return act

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killing(plain))
            patch.setattr(Path, "unlink", killing(unlink))
            try:
                dead = False
                make(RunFolder(path), new)
            except KilledError:
                dead = True
        again = RunFolder(path)
        with again.locked():
            again.go_on()
        found = {
            name: text.decode() for name, text in contents(path).items() if name[0] != "." and name != "manifest.json"
        }
        assert found.pop("notes.txt") == "precious"
        assert found in (old, new)
        assert again.names >= set(found)
        seen.add(found == new)
        if not dead:
            break
    assert seen == {False, True}


# One process at a time.


@pytest.mark.parametrize("flags", [("train", "tiny", "--resume"), (*TRAIN, "--steps", "2", "--overwrite")])
def test_two_runs_do_not_share_a_folder(copy: Path, run: Command, flags: tuple[str, ...]) -> None:
    (copy / ".mnistgen.lock").write_text("")  # of a process that is dead: it locks nothing
    with RunFolder(copy).locked():
        before = contents(copy)
        text = run(*flags, "--out", str(copy), code=1)
        assert f"{copy}: another process is training into this folder" in text
        assert contents(copy) == before
    assert not (copy / ".mnistgen.lock").exists()
    run(*flags, "--out", str(copy))


# Resuming.


def killed_in(monkeypatch: pytest.MonkeyPatch, run: Command, where: str, *flags: str) -> None:
    def killed(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunWriter, where, killed)
        run(*flags, code=130)


@pytest.mark.parametrize("where", ["settle", "make_pictures"])
def test_killed_after_the_last_save(
    home: Path, tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Resuming ends with the best weights and with the pictures."""
    flags = (*TRAIN, "--steps", "300", "--validate-every", "1", "--patience", "2", "--lr", "1e-12", "--ema-decay", "0")
    out = str(tmp_path / "run")
    killed_in(monkeypatch, run, where, *flags, "--out", out)
    (tmp_path / "run" / ".mnistgen-abcdefgh.tmp.png").write_text("half a picture")
    steps = [record["step"] for record in read_log(tmp_path / "run" / "log.jsonl")]
    text = run("train", "tiny", "--resume", "--out", out)
    assert "finished already" in text
    assert "made what was missing" in text
    assert same_weights(tmp_path / "run" / "model.safetensors", tmp_path / "run" / "best.safetensors")
    assert [record["step"] for record in read_log(tmp_path / "run" / "log.jsonl")] == steps
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"grid.png", "reconstructions.png", "curves.png"} < names
    assert not any(name.startswith(".") for name in names)
    before = contents(tmp_path / "run")
    assert "missing" not in run("train", "tiny", "--resume", "--out", out)
    assert contents(tmp_path / "run") == before


def test_interrupted_in_the_last_step(home: Path, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures may take long: they are left to --resume."""
    plain, signals = Tiny.validation_loss, [signal.SIGINT]  # one alone, for a second one acts at once

    def interrupted(self: Tiny, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor | None:
        while signals:
            signal.raise_signal(signals.pop())
        return plain(self, x, y)

    with monkeypatch.context() as patch:
        patch.setattr(Tiny, "validation_loss", interrupted)
        text = run(*TRAIN, "--steps", "2", "--validate-every", "2", "--out", "last", code=130)
    assert "interrupted at step 2; continue with: mnistgen train tiny --resume --out last" in text
    assert not list((home / "last").glob("*.png"))
    assert "made what was missing: last/grid.png" in run("train", "tiny", "--resume", "--out", "last")


def test_a_run_of_an_earlier_version(copy: Path, run: Command) -> None:
    """It has no manifest, sums in place of the last losses, and shares of the peak in its log."""
    state = torch.load(copy_state(copy), weights_only=True)
    assert state["meter"].pop("window")
    state["meter"] |= {"sums": {"loss": 1.0}, "counts": {"loss": 2}}
    state |= {"step": 4, "progress": 4 / 6, "averaged_step": 4}
    torch.save(state, copy / "resume.pt")
    (copy / "manifest.json").unlink()
    (copy / "frames").mkdir()
    (copy / "frames" / "00000004.png").write_text("precious")  # of a step in which nobody has looked
    (copy / "notes.txt").write_text("precious")
    records = [record | {"lr": 0.5} for record in read_log(copy / "log.jsonl")]
    (copy / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert "frames/00000004.png: is in the way" in run("train", "tiny", "--resume", "--out", str(copy), code=2)
    (copy / "frames" / "00000004.png").unlink()
    for picture in copy.glob("*.png"):
        picture.unlink()
    run("train", "tiny", "--resume", "--out", str(copy))
    assert read_checkpoint(copy).steps == 6
    assert [record["lr"] for record in read_log(copy / "log.jsonl")][:4] == [0.5 * 1e-2] * 4
    assert not any(record["step"] > 6 for record in read_log(copy / "log.jsonl"))
    (copy / "manifest.json").unlink()
    for picture in copy.glob("*.png"):
        picture.unlink()
    run(*TRAIN, "--steps", "1", "--out", str(copy), "--overwrite")
    assert not list(copy.glob("step-*"))
    assert (copy / "notes.txt").read_text() == "precious"


def copy_state(folder: Path) -> Any:
    """The file of a state, without the checksum around it."""
    content = io.BytesIO()
    torch.save(load_state(folder / "resume.pt"), content)
    content.seek(0)
    return content


def test_weights_alone_are_a_checkpoint(home: Path, original: Path, tmp_path: Path, run: Command) -> None:
    save(tmp_path, load(original))
    text = run(*TRAIN, "--steps", "1", "--out", str(tmp_path), code=2)
    assert "holds a checkpoint already. Use --resume to continue it, --out FOLDER" in text
    run(*TRAIN, "--steps", "1", "--out", str(tmp_path), "--overwrite")
    assert read_checkpoint(tmp_path).steps == 1


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no identity": lambda s: s.pop("identity"),
    "identity": lambda s: s.update(identity=3),
    "no weights": lambda s: s.pop("model"),
    "weights": lambda s: s.update(model=[1]),
    "a weight": lambda s: s["model"].popitem(),
    "shape": lambda s: s["ema"].update({"encoder.bias": torch.zeros(7)}),
    "no counter": lambda s: s.pop("validations_since_best"),
    "a float step": lambda s: s.update(step=2.5),
    "a negative step": lambda s: s.update(step=-1),
    "nan progress": lambda s: s.update(progress=math.nan),
    "best": lambda s: s.update(best_validation="low"),
    "no optimizers": lambda s: s.update(optimizers=[]),
    "more optimizers": lambda s: s.update(optimizers=s["optimizers"] * 2),
    "optimizers": lambda s: s.update(optimizers=3),
    "groups": lambda s: s["optimizers"][0].update(param_groups=[]),
    "parameters": lambda s: s["optimizers"][0]["param_groups"][0].update(params=[0]),
    "too many states": lambda s: s["optimizers"][0]["state"].update({99: {}}),
    "a part of a state": lambda s: s["optimizers"][0]["state"][1].pop("exp_avg"),
    "a state's shape": lambda s: s["optimizers"][0]["state"][1].update(exp_avg=torch.zeros(5, 5)),
    "meter": lambda s: s.update(meter=3),
    "window": lambda s: s["meter"].update(window=[3]),
    "monitor": lambda s: s["meter"].update(monitor={"coverage": "all"}),
    "validation": lambda s: s["meter"].update(validation="good"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_state_is_one_sentence_and_the_way_on(
    copy: Path, run: Command, damage: Callable[[dict[str, Any]], Any]
) -> None:
    state = load_state(copy / "resume.pt")
    damage(state)
    save_state(copy / "resume.pt", state)
    before = contents(copy)
    text = run("train", "tiny", "--resume", "--out", str(copy), code=1)
    assert text.startswith(f"mnistgen: {copy / 'resume.pt'}: ")
    way_on = f"mnistgen train tiny --init {copy} --out {copy}-further"
    assert text.endswith(f"The weights beside it can be gone on from: {way_on}\n")
    assert text.count("\n") == 1
    assert contents(copy) == before


def test_the_way_on_is_one(copy: Path, run: Command) -> None:
    (copy / "resume.pt").write_text("")
    text = run("train", "tiny", "--resume", "--out", str(copy), code=1)
    flags = text.rpartition("mnistgen train ")[2].split()
    run("train", *flags, *TRAIN[2:], "--steps", "1")
    assert read_checkpoint(f"{copy}-further").steps == 1
    shutil.rmtree(f"{copy}-further")


FLAGS_FILES = {
    "empty": "",
    "cut": "{",
    "a list": "[]",
    "deep": "[" * 100_000,
    "no model": '{"options": {}, "config": {}}',
    "options": '{"model": "tiny", "options": 3, "config": {}}',
    "an option": '{"model": "tiny", "options": {"seed": "one"}, "config": {}}',
    "a switch": '{"model": "tiny", "options": {"resize": 1}, "config": {}}',
    "a choice": '{"model": "tiny", "options": {"precision": "fp8"}, "config": {}}',
    "a path": '{"model": "tiny", "options": {"samples": 3}, "config": {}}',
    "nan": '{"model": "tiny", "options": {"save_every": NaN}, "config": {}}',
    "a field": '{"model": "tiny", "options": {}, "config": {"depth": 3}}',
    "a value": '{"model": "tiny", "options": {}, "config": {"lr": -1}}',
    "a kind": '{"model": "tiny", "options": {}, "config": {"lr": "fast"}}',
}


@pytest.mark.parametrize("text", FLAGS_FILES.values(), ids=FLAGS_FILES)
def test_damaged_flags_are_one_sentence_and_the_way_on(copy: Path, run: Command, text: str) -> None:
    (copy / "run.json").write_text(text)
    before = contents(copy)
    said = run("train", "tiny", "--resume", "--out", str(copy), code=1)
    assert said.startswith(f"mnistgen: {copy / 'run.json'}: is damaged")
    assert f"train tiny --init {copy}" in said
    assert said.count("\n") == 1
    assert contents(copy) == before


def test_flags_of_another_model_or_a_later_version(copy: Path, run: Command) -> None:
    assert "holds a run of 'tiny', and this is 'duel'" in run("train", "duel", "--resume", "--out", str(copy), code=1)
    stored = json.loads((copy / "run.json").read_text())
    stored["options"]["teleport"] = True
    (copy / "run.json").write_text(json.dumps(stored))
    text = run("train", "tiny", "--resume", "--out", str(copy), code=1)
    assert "'teleport', which this mnistgen does not know" in text


@pytest.mark.parametrize(
    "line",
    [b"\xff\xfe\x00", b"{", b"[]", b"3", b'{"step": "one"}', b'{"step": 1, "lr": 1, "losses": 3}', b"[" * 100_000],
)
def test_a_broken_line_in_the_log_never_stops_a_run(copy: Path, run: Command, line: bytes) -> None:
    records = read_log(copy / "log.jsonl")
    lines = (copy / "log.jsonl").read_bytes().splitlines()
    (copy / "log.jsonl").write_bytes(b"\n".join([lines[0], line, *lines[1:]]) + b"\n")
    (copy / "curves.png").unlink()
    text = run("train", "tiny", "--resume", "--out", str(copy))
    assert "log.jsonl: 1 line left out" in text
    assert read_log(copy / "log.jsonl") == records
    assert (copy / "curves.png").is_file()
    assert len((copy / "log.jsonl").read_bytes().splitlines()) == len(records)


def test_lengths_that_make_no_sense_in_the_library(home: Path) -> None:
    for wrong in ({"epochs": 1e308}, {"budget": math.inf}, {"steps": 0}, {"patience": 0}, {"validate_every": 0}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))} is .*; it must be"):
            next(fit(Tiny(Tiny.Config(), 4), blobs(60), **wrong))


def test_resuming_in_the_library_tells_a_damaged_state(home: Path) -> None:
    *_, last = fit(Tiny(Tiny.Config(), 4), blobs(60), steps=1)
    state = last.run.state_dict()
    del state["ema"]
    with pytest.raises(DamagedRunError, match="state of the run is damaged: it lacks 'ema'"):
        next(fit(Tiny(Tiny.Config(), 4), blobs(60), steps=1, state=state))


# What is shown and written on the way.


def test_the_log_has_the_learning_rate_and_losses_in_every_record(original: Path, home: Path, run: Command) -> None:
    run(*TRAIN, "--steps", "60", "--validate-every", "7", "--schedule", "constant", "--lr", "2e-3", "--out", "logged")
    records = read_log(home / "logged" / "log.jsonl")
    assert records[-1]["lr"] == pytest.approx(2e-3)
    assert {7, 14, 56, 60} < {record["step"] for record in records}
    assert all(set(record["losses"]) == {"loss", "size"} for record in records)


def test_the_line_of_a_slow_model_moves() -> None:
    meter = training_run.Meter(None)
    lines = []
    for step in fit(Tiny(Tiny.Config(), 4), blobs(60), steps=5):
        meter.add(step)
        lines.append(meter.line(step).partition("loss ")[2])
    assert len(set(lines)) == 5


def test_a_budget_holds_for_the_last_validation_too() -> None:
    length = Length(None, 60.0, batches_to_validate=39)
    assert length.progress(0, 0.0) == 0
    length.took(20.0)  # much is made in the first step
    assert length.progress(1, 20.0) == pytest.approx(1 / 3)
    length.took(1.0)
    assert length.progress(2, 21.0) == pytest.approx(21 / (60 - 13 - 0.5))
    length.took_to_validate(20.0)
    assert length.progress(3, 39.5) == 1
    assert Length(8, None, 39).progress(4, 1e9) == 0.5


@pytest.mark.usefixtures("whole_figures")
def test_curves_hide_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No panel is empty, one validation is a point that is seen, and the legend is outside the axes."""
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: (drawn.append(self), Path(path).write_text(""))[0])
    records = [
        {"step": s, "lr": 1e-3, "losses": {"loss": 1.0 + s, "never": None}, "validation": None} for s in range(1, 41)
    ]
    records[-1]["validation"] = 500.0
    for names, panel in ((("loss", "never"), "loss"), (("critic", "never"), "validation loss")):
        renamed = [r | {"losses": dict(zip(names, r["losses"].values(), strict=True))} for r in records]
        (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in renamed))
        curves(tmp_path / "log.jsonl", tmp_path / "curves.png", "title")
        shown = {axes.get_title(): axes for axes in drawn[-1].axes if axes.get_visible()}
        assert list(shown) == list(dict.fromkeys([names[0], panel, "learning rate"]))
        line = shown[panel].get_lines()[-1]
        assert line.get_xydata().tolist() == [[40, 500]]
        assert line.get_marker() == "."
        assert shown[panel].get_ylim()[1] > 500
    drawn[0].canvas.draw()
    axes = next(axes for axes in drawn[0].axes if axes.get_title() == "loss")
    assert axes.get_legend().get_window_extent().y0 >= axes.get_window_extent().y1 - 1


def test_a_full_disk_is_told_in_our_words(home: Path, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *arguments: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    text = run(*TRAIN, "--validation", "0", "--steps", "1", "--out", "full", code=1)
    assert text.splitlines()[-1] == "mnistgen: full/resume.pt: cannot be written: No space left on device."


def test_a_run_cannot_go_to_standard_output(run: Command) -> None:
    assert "cannot go to standard output" in run(*TRAIN, "--steps", "1", "--out", "-", code=2)


def test_the_lock_names_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(MnistgenError, match="file/below: cannot be written"),
        RunFolder(tmp_path / "file/below").locked(),
    ):
        pass
