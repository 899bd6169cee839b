"""`mnistgen train` as a user meets it: files, kills, interrupts, full disks, several processes."""

import json
import shutil
import signal
import time
from pathlib import Path

import figures
import numpy as np
import pytest
import torch
from command import Process, mnistgen, same_weights, two_processes
from PIL import Image
from safetensors.torch import load_file
from tiny import blobs

from mnistgen import Dataset
from mnistgen.checkpoint import load_state, read_checkpoint
from mnistgen.cli.run_folder import RunFolder

STEPS = 30
TRAIN = ("train", "tiny", "--data", "blobs.npz", "--steps", str(STEPS), "--validation", "20", "--validate-every", "7")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("train")
    data = blobs(120)
    np.savez(path / "blobs.npz", images=data.images[:, 0].numpy(), labels=data.labels.numpy())
    return path


def test_tensorboard_has_the_log(folder: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = ("train", "tiny", "--data", "blobs.npz", "--validate-every", "3", "--logger", "tensorboard", "--out", "board")
    mnistgen(folder, *run, "--steps", "9")
    mnistgen(folder, *run, "--steps", "6", "--overwrite")
    assert len(list((folder / "board").glob("events.*"))) == 1  # those of the run that was replaced are gone
    events = EventAccumulator(str(folder / "board")).Reload()
    records = [json.loads(line) for line in (folder / "board" / "log.jsonl").read_text().splitlines()]
    for tag, values in {
        "losses/loss": {r["step"]: r["losses"]["loss"] for r in records},
        "learning rate": {r["step"]: r["lr"] for r in records},
        "validation loss": {r["step"]: r["validation"] for r in records if r["validation"] is not None},
    }.items():
        assert {e.step: e.value for e in events.Scalars(tag)} == pytest.approx(values), tag
    assert [(e.step, e.width, e.height) for e in events.Images("samples")] == [(3, 4 * 30, 60), (6, 4 * 30, 60)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        text = mnistgen(folder, *run[:-1], "other", "--steps", "6", code=1)
    assert "pip install 'mnistgen[tensorboard]'" in text
    assert not (folder / "other").exists()


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """The run that nothing interrupts, and all that it leaves behind."""
    with figures.whole():
        text = mnistgen(folder, *TRAIN, "--out", "whole")
    assert "mnistgen sample whole" in text
    return folder / "whole"


def log(run: Path) -> list[dict[str, object]]:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def test_what_a_run_leaves_behind(whole: Path) -> None:
    about = read_checkpoint(whole)
    assert (about.model, about.distribution, about.version) == ("tiny", "tiny-models", "1.0")
    assert (about.steps, about.seed, about.num_classes, about.config["latent_dim"]) == (STEPS, 0, 4, 3)
    assert about.scores["validation_loss"] == log(whole)[-1]["validation"]
    assert [bool(record["losses"]) for record in log(whole)] == [True] * STEPS
    assert {p.name for p in whole.iterdir()} == {
        "model.safetensors",
        "best.safetensors",
        "resume.pt",
        "log.jsonl",
        "run.json",
        "manifest.json",
        "grid.png",
        "reconstructions.png",
        "curves.png",
    }
    pictures = {p.name: Image.open(p) for p in whole.glob("*.png")}
    assert set(pictures) == {"grid.png", "reconstructions.png", "curves.png"}
    assert pictures["grid.png"].size == (10 * 30 * 2, 4 * 30 * 2)
    assert pictures["grid.png"].info["Source"] == "mnistgen train tiny"
    assert [r["step"] for r in log(whole) if r["validation"] is not None] == [7, 14, 21, 28, 30]


KILLS = {
    # In the file write itself: half of the state is on disk when the process dies.
    "half a state": """
import os, signal
from pathlib import Path
write, count = Path.write_bytes, 0
def half(self, content):
    global count
    count += self.suffix == ".pt"
    if self.suffix == ".pt" and count == {k}:
        write(self, content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, content)
Path.write_bytes = half
""",
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
    # Between two steps, in the middle of a log record's window.
    "in a step": """
import os, signal
import mnistgen.training.loop
class Killing(mnistgen.training.loop.Stepper):
    def step(self, *arguments):
        if self.run.step == {k}:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(*arguments)
mnistgen.training.loop.Stepper = Killing
""",
}


@pytest.mark.parametrize(
    ("where", "k"), [("half a state", 11), ("before a rename", 17), ("before a rename", 40), ("in a step", 23)]
)
def test_killed_and_resumed_is_as_if_nothing_had_happened(folder: Path, whole: Path, where: str, k: int) -> None:
    out = f"killed-{where.replace(' ', '-')}-{k}"
    arguments = (*TRAIN, "--out", out, "--save-every", "0")
    mnistgen(folder, *arguments, code=-signal.SIGKILL, script=KILLS[where].format(k=k))
    assert not same_weights(folder / out / "model.safetensors", whole / "model.safetensors")
    assert any(".tmp" in p.name for p in (folder / out).iterdir()) == (where != "in a step")
    mnistgen(folder, "train", "tiny", "--resume", "--out", out)
    assert same_weights(folder / out / "model.safetensors", whole / "model.safetensors")
    assert same_weights(folder / out / "best.safetensors", whole / "best.safetensors")
    assert log(folder / out) == log(whole)
    assert {p.name for p in (folder / out).iterdir()} == {p.name for p in whole.iterdir()}
    assert "finished already" in mnistgen(folder, "train", "tiny", "--resume", "--out", out)


def test_earlier_checkpoints_are_kept(folder: Path, whole: Path) -> None:
    """Whatever happens to the run, those that are there are those of the uninterrupted one."""
    arguments = (*TRAIN, "--out", "kept", "--save-every", "0", "--keep-every", "8")
    mnistgen(folder, *arguments, code=-signal.SIGKILL, script=KILLS["before a rename"].format(k=57))
    # As if the process had died after a copy and before its state was written.
    RunFolder(folder / "kept").claim("step-00000029.safetensors").write_bytes(b"later")
    mnistgen(folder, "train", "tiny", "--resume", "--out", "kept")
    assert sorted(p.name for p in (folder / "kept").glob("step-*")) == [
        f"step-{step:08d}.safetensors" for step in (8, 16, 24)
    ]
    assert same_weights(folder / "kept" / "model.safetensors", whole / "model.safetensors")
    assert read_checkpoint(folder / "kept" / "step-00000016.safetensors").steps == 16
    mnistgen(folder, *TRAIN[:4], "--steps", "16", "--out", "kept", "--overwrite", "--keep-every", "10")
    assert [p.name for p in (folder / "kept").glob("step-*")] == ["step-00000010.safetensors"]
    assert "keep-every is 0" in mnistgen(folder, *TRAIN, "--out", "x", "--keep-every", "0", code=2)


def test_an_interrupt_is_clean_and_says_how_to_go_on(folder: Path, whole: Path) -> None:
    slow = """
import time, tiny
plain = tiny.Tiny.losses
def losses(self, x, y):
    time.sleep(0.1)
    yield from plain(self, x, y)
tiny.Tiny.losses = losses
"""
    process = Process(folder, *TRAIN, "--out", "interrupted", "--save-every", "1000", script=slow)
    records = folder / "interrupted" / "log.jsonl"
    for _ in range(600):
        if records.exists() and records.stat().st_size:
            break
        time.sleep(0.05)
    process.signal(signal.SIGINT)
    text, code = process.wait()
    assert code == 130, text
    assert "Traceback" not in text
    assert "continue with: mnistgen train tiny --resume --out interrupted" in text
    assert read_checkpoint(folder / "interrupted").steps < STEPS
    mnistgen(folder, "train", "tiny", "--resume", "--out", "interrupted")
    assert same_weights(folder / "interrupted" / "model.safetensors", whole / "model.safetensors")


def test_an_existing_checkpoint_is_not_lost(folder: Path, whole: Path) -> None:
    before = (whole / "model.safetensors").read_bytes()
    text = mnistgen(folder, *TRAIN, "--out", "whole", code=2)
    assert "--resume" in text
    assert "--overwrite" in text
    assert "started with seed 0" in mnistgen(
        folder, "train", "tiny", "--resume", "--out", "whole", "--seed", "1", code=1
    )
    assert "no run to resume" in mnistgen(folder, "train", "tiny", "--resume", "--out", "nowhere", code=1)
    assert (whole / "model.safetensors").read_bytes() == before
    mnistgen(folder, *TRAIN[:4], "--steps", "2", "--out", "again", "--samples", "again")
    mnistgen(folder, *TRAIN[:4], "--steps", "3", "--out", "again", "--samples", "again", "--overwrite")
    assert read_checkpoint(folder / "again").steps == 3


def test_a_run_may_begin_from_a_checkpoint(folder: Path, whole: Path) -> None:
    flags = ("--samples", "further", "--out", "further", "--overwrite", "--init", "whole")
    mnistgen(folder, *TRAIN[:4], "--steps", "1", "--lr", "1e-12", "--ema-decay", "0", *flags)
    begun, given = (load_file(run / "model.safetensors") for run in (folder / "further", whole))
    given["seen"] += 16  # images, which the model counts
    assert all(torch.allclose(begun[name], given[name], atol=1e-6) for name in given)
    assert read_checkpoint(folder / "further").steps == 1
    assert "trained on 4 classes, with latent_dim 3" in mnistgen(
        folder, *TRAIN[:4], "--latent-dim", "5", *flags, code=1
    )
    assert "is a checkpoint of 'tiny', and this is 'vae'" in mnistgen(
        folder, "train", "vae", *TRAIN[2:4], *flags, code=1
    )


def test_a_damaged_state_is_one_clear_sentence(folder: Path, whole: Path) -> None:
    copy = folder / "damaged"
    shutil.copytree(whole, copy)
    (copy / "resume.pt").write_bytes((whole / "resume.pt").read_bytes()[:1000])
    assert "resume.pt: is damaged" in mnistgen(folder, "train", "tiny", "--resume", "--out", "damaged", code=1)
    (copy / "run.json").write_text("{")
    assert "run.json: is damaged" in mnistgen(folder, "train", "tiny", "--resume", "--out", "damaged", code=1)


def test_a_full_disk_and_a_bad_folder(folder: Path) -> None:
    # A limit on the size of files stands in for a full disk: the log and run.json fit, the weights do not.
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))\n"
    text = mnistgen(folder, *TRAIN, "--out", "full", "--save-every", "0", code=1, script=limit)
    assert "full" in text
    assert "cannot be written" in text
    assert not list((folder / "full").glob("*.tmp*"))
    (folder / "file").write_text("")
    assert "cannot be written" in mnistgen(folder, *TRAIN, "--out", "file/below", code=1)


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(folder: Path) -> None:
    script = """
import tiny
plain = tiny.Tiny.losses
def losses(self, x, y):
    for loss in plain(self, x, y):
        yield loss._replace(value=loss.value / (int(self.seen) != 16 * 9))
tiny.Tiny.losses = losses
"""
    text = mnistgen(folder, *TRAIN, "--out", "exploded", "--save-every", "0", code=1, script=script)
    assert "Loss 'loss' is not finite at step 9" in text
    assert read_checkpoint(folder / "exploded").steps == 8
    mnistgen(folder, "sample", "exploded", "--out", "exploded.png")


def test_two_processes_have_the_curve_of_one(folder: Path) -> None:
    flags = ("--steps", "12", "--precision", "fp32", "--validation", "30", "--validate-every", "4", "--quiet")
    mnistgen(folder, *TRAIN[:4], *flags, "--out", "one", "--samples", "one")
    text = two_processes(folder, *TRAIN[:4], *flags, "--out", "two", "--samples", "two")
    assert text.count("trained tiny") == 1
    one, two = log(folder / "one"), log(folder / "two")
    assert len(one) == len(two) == 12
    for a, b in zip(one, two, strict=True):
        assert a["losses"] == pytest.approx(b["losses"], rel=1e-4)
        assert (a["validation"] is None) == (b["validation"] is None)
        assert a["validation"] is None or a["validation"] == pytest.approx(b["validation"], rel=1e-4)


def test_wrong_usage(folder: Path) -> None:
    assert "Did you mean 'tiny'?" in mnistgen(folder, "train", "tinny", code=2)
    assert "--latent-dim" in mnistgen(folder, "train", "tiny", "--latent-dimm", "3", code=2)
    assert "no length of time" in mnistgen(folder, *TRAIN[:4], "--budget", "soon", "--out", "x", code=2)
    assert "one length" in mnistgen(folder, *TRAIN, "--budget", "5s", "--out", "x", code=2)
    assert "lr is -1" in mnistgen(folder, *TRAIN, "--lr", "-1", "--out", "x", code=2)
    assert "nowhere.npz" in mnistgen(folder, "train", "tiny", "--data", "nowhere.npz", code=1)
    assert not (folder / "x" / "model.safetensors").exists()
    text = mnistgen(folder, "train", "tiny", "--help")
    assert "Size of z." in text
    assert "examples:" in text


def test_a_budget_and_early_stopping(folder: Path) -> None:
    mnistgen(folder, *TRAIN[:4], "--budget", "1s", "--out", "budget", "--samples", "budget")
    assert log(folder / "budget")[-1]["lr"] < 0.05 * 1e-2
    flags = ("--validate-every", "1", "--patience", "2", "--lr", "1e-12", "--steps", "500")
    text = mnistgen(folder, *TRAIN[:4], *flags, "--out", "early", "--samples", "early")
    assert "stopped early" in text
    assert same_weights(folder / "early" / "model.safetensors", folder / "early" / "best.safetensors")


def test_a_model_of_two_parts_trains_too(folder: Path) -> None:
    mnistgen(folder, "train", "duel", "--data", "blobs.npz", "--steps", "5", "--out", "duel", "--samples", "duel")
    assert set(log(folder / "duel")[-1]["losses"]) == {"critic", "generator", "fake"}
    assert {p.name for p in (folder / "duel").glob("*.png")} == {"grid.png", "curves.png"}


def test_the_vae_on_mnist(mnist: Dataset, tmp_path: Path) -> None:
    mnistgen(tmp_path, "train", "vae", "--steps", "5", "--batch-size", "16", "--validation", "32", "--quiet")
    assert read_checkpoint(tmp_path / "checkpoints" / "vae-mnist").dataset == mnist.name
    text = mnistgen(tmp_path, "sample", "vae-mnist", "--digits", "2026", "--out", "year.png")
    assert "year.png" in text
    assert Image.open(tmp_path / "year.png").size == (4 * 30 * 2, 30 * 2)


def test_a_validation_part_is_what_is_validated_on(tmp_path: Path) -> None:
    data, held = blobs(60), blobs(13, seed=1)
    parts = {"train_images": data.images[:, 0], "train_labels": data.labels}
    parts |= {"val_images": held.images[:, 0], "val_labels": held.labels}
    np.savez(tmp_path / "parts.npz", **{name: part.numpy() for name, part in parts.items()})
    flags = ("train", "tiny", "--data", "parts.npz", "--steps", "2", "--quiet", "--out")
    text = mnistgen(tmp_path, *flags, "own")
    assert "parts.npz: validated on the 13 images of its validation part." in text
    assert "left out" not in text
    identity = load_state(tmp_path / "own" / "resume.pt")["identity"]
    assert (identity["dataset hash"], identity["validation hash"]) == (data.hash, held.hash)
    text = mnistgen(tmp_path, *flags, "cut", "--validation", "20")
    assert "its validation part is left out" in text
    assert load_state(tmp_path / "cut" / "resume.pt")["identity"]["dataset hash"] != data.hash
    parts["val_labels"] = held.labels + 4
    np.savez(tmp_path / "parts.npz", **{name: part.numpy() for name, part in parts.items()})
    assert "has labels that its training images lack" in mnistgen(tmp_path, *flags, "none", code=1)
