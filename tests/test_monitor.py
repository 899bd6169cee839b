"""Watching samples while a model trains: missing classes are told by name, and nothing is disturbed."""

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from command import mnistgen, same_weights, two_processes
from matplotlib.figure import Figure
from PIL import Image, ImageSequence
from tiny import Tiny, strokes
from torch import Tensor

from mnistgen import BaseConfig, Dataset, GenerativeModel, Loss, Noise, UsageError, load, sample
from mnistgen.cli.evaluator import ClassifierOptions
from mnistgen.cli.run_folder import RunFolder
from mnistgen.cli.train import GeneratorOptions, _GeneratorWriter
from mnistgen.cli.training_run import Meter, _stored_options
from mnistgen.curves import curves
from mnistgen.data import to_float
from mnistgen.errors import CheckpointError
from mnistgen.evaluator import Classifier, build_classifier, load_evaluator, save_classifier
from mnistgen.sampling import grid, save_gif
from mnistgen.scoring.monitor import SampleMonitor, missing

LABELS = torch.arange(1000) % 10


def dataset(n: int, seed: int, name: str = "strokes") -> Dataset:
    return Dataset(*strokes(n, seed), num_classes=10, name=name, split="train")


class Bank(GenerativeModel):
    """Draws real images: for each label one at random of the class that `turned` makes of it."""

    def __init__(self, data: Dataset, turned: dict[int, int] | None = None, *, conditional: bool = True) -> None:
        super().__init__(BaseConfig(), data.num_classes)
        self.data, self.turned, self.conditional = data, turned or {}, conditional
        self.places = [(data.labels == label).nonzero().flatten() for label in range(data.num_classes)]

    def losses(self, x: Tensor, y: Tensor) -> Iterator[Loss]:
        raise NotImplementedError

    def sample(self, y: Tensor, *, noise: Noise) -> Tensor:
        u = noise.uniform().tolist()
        if self.conditional:
            places = [self.places[self.turned.get(label, label)] for label in y.tolist()]
            chosen = [int(there[int(len(there) * v)]) for there, v in zip(places, u, strict=True)]
        else:
            chosen = [int(len(self.data) * v) for v in u]
        return to_float(self.data.images[torch.tensor(chosen)])


# What is missing.


def test_a_class_is_missing_below_a_tenth_of_what_is_expected() -> None:
    expected = torch.full((10,), 100)
    assert missing(LABELS, expected) == missing(LABELS, expected, LABELS) == ()
    for left, gone in ((10, ()), (9, (3,))):
        seen = LABELS.clone()
        seen[(seen == 3).nonzero().flatten()[left:]] = 5
        assert missing(seen, expected) == missing(seen, expected, LABELS) == gone
    assert missing(torch.ones_like(LABELS), expected) == (0, 2, 3, 4, 5, 6, 7, 8, 9)
    swapped = LABELS.clone()
    swapped[LABELS == 3], swapped[LABELS == 8] = 8, 3
    assert missing(swapped, expected) == ()  # nobody asked for anything
    assert missing(swapped, expected, LABELS) == (3, 8)


def test_a_fine_model_and_collapsed_ones(knows_strokes: Classifier) -> None:
    watch, others = SampleMonitor(dataset(1000, 2), evaluator=knows_strokes), dataset(1000, 3)
    fine = watch.check(Bank(others))
    assert fine.label_agreement is not None
    assert fine.label_agreement > 0.95
    assert fine.coverage > 0.8
    assert fine.missing == ()
    swallowed = watch.check(Bank(others, {3: 5, 7: 5}))
    assert swallowed.missing == (3, 7)
    assert swallowed.label_agreement == pytest.approx(0.8, abs=0.05)
    assert swallowed.coverage == pytest.approx(0.8 * fine.coverage, abs=0.05)
    collapsed = watch.check(Bank(others, dict.fromkeys(range(10), 1)))
    assert collapsed.missing == (0, 2, 3, 4, 5, 6, 7, 8, 9)
    assert collapsed.label_agreement == pytest.approx(0.1, abs=0.01)
    assert collapsed.coverage < 0.15
    assert json.loads(json.dumps(collapsed.to_dict()))["missing"] == list(collapsed.missing)


def test_an_unconditional_model_is_expected_to_draw_as_the_data_are() -> None:
    """Class k is a bright pixel k, and the evaluator takes the brightest of the ten."""
    oracle = build_classifier("logistic")
    with torch.no_grad():
        oracle.head.weight.copy_(torch.eye(10, 784))
        oracle.head.bias.zero_()

    def rarely(nines: int) -> Dataset:
        """900 images of each class, but of class 9 only so many."""
        labels = torch.arange(9).repeat_interleave(900)
        labels = torch.cat([labels, torch.full((nines,), 9)])
        images = torch.zeros(len(labels), 1, 28, 28, dtype=torch.uint8)
        images[torch.arange(len(labels)), 0, 0, labels] = 255
        images[:, 0, 20] = torch.randint(0, 256, (len(labels), 28), dtype=torch.uint8)
        return Dataset(images, labels, 10, "pixels", "train")

    def gone(real: int, drawn: int) -> tuple[int, ...]:
        look = SampleMonitor(rarely(real), evaluator=oracle).check(Bank(rarely(drawn), conditional=False))
        assert look.label_agreement is None
        return look.missing

    assert gone(real=900, drawn=40) == (9,)  # about 5 of 1,000, and a tenth of what is expected is 10
    assert gone(real=40, drawn=40) == ()
    assert gone(real=900, drawn=900) == ()


def test_what_the_evaluator_never_recognises_is_not_missed(knows_strokes: Classifier) -> None:
    blind = build_classifier("lenet")
    blind.load_state_dict(knows_strokes.state_dict())
    with torch.no_grad():
        blind.head.bias[4] = -1e4
    for conditional in (True, False):
        model = Bank(dataset(1000, 3), conditional=conditional)
        assert SampleMonitor(dataset(1000, 2), evaluator=blind).check(model).missing == ()


def test_a_look_disturbs_nothing(knows_strokes: Classifier) -> None:
    watch = SampleMonitor(dataset(1000, 2), evaluator=knows_strokes)
    model = Bank(dataset(1000, 3)).train()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = watch.check(model)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert model.training
    torch.manual_seed(1)
    again = watch.check(model)
    assert again.to_dict() == first.to_dict()
    assert torch.equal(again.frame, first.frame)
    assert torch.equal(first.frame, grid(sample(model, LABELS)[:80], 10))


def test_what_cannot_be_watched(knows_strokes: Classifier) -> None:
    with pytest.raises(CheckpointError, match="mnistgen evaluator train resnet --data strokes"):
        SampleMonitor(dataset(1000, 2))
    with pytest.raises(UsageError, match="99 real images are too few"):
        SampleMonitor(dataset(99, 2), evaluator=knows_strokes)
    with pytest.raises(UsageError, match="10 classes, and the second evaluator knows 4"):
        SampleMonitor(dataset(1000, 2), evaluator=build_classifier("lenet", 4))


@pytest.mark.slow
def test_real_digits_and_the_shipped_second(mnist: Dataset) -> None:
    order = torch.randperm(len(mnist), generator=torch.Generator().manual_seed(0))
    held_out, others = mnist.subset(order[:3000]), mnist.subset(order[3000:6000])
    watch = SampleMonitor(held_out)
    assert watch.evaluator.state_dict().keys() == load_evaluator("B").state_dict().keys()
    fine = watch.check(Bank(others))
    assert fine.label_agreement is not None
    assert fine.label_agreement > 0.97
    assert fine.coverage > 0.85
    assert fine.missing == ()
    assert watch.check(Bank(others, conditional=False)).missing == ()
    assert watch.check(Bank(others, {3: 8, 7: 1})).missing == (3, 7)
    assert watch.check(Bank(others, dict.fromkeys(range(10), 1))).missing == (0, 2, 3, 4, 5, 6, 7, 8, 9)


# In `mnistgen train`.

TRAIN = ("train", "tiny", "--data", "strokes.npz", "--steps", "30", "--validation", "100", "--seed", "3")
GAN = "import tiny\ntiny.Tiny.validation_loss = lambda self, x, y: None\n"
# Draws strokes, of which the 3s and 7s become 1s after step 8, the 3s come back after step 16, and the 7s after 24.
COLLAPSING = (
    GAN
    + """
from mnistgen.data import to_float
images, labels = tiny.strokes(1000, 5)
def sample(self, y, *, noise):
    step = int(self.seen) // 16
    y = y.clone()
    y[(y == 3) & (8 < step <= 16)] = 1
    y[(y == 7) & (8 < step <= 24)] = 1
    return to_float(images[y + 10 * (noise.uniform() * 100).long()])
tiny.Tiny.sample = sample
"""
)
KILL = """
import os, signal
import mnistgen.training.loop
class Killing(mnistgen.training.loop.Stepper):
    def step(self, *arguments):
        if self.run.step == 23:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(*arguments)
mnistgen.training.loop.Stepper = Killing
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, knows_strokes: Classifier) -> Path:
    path = tmp_path_factory.mktemp("watch")
    data = dataset(1000, 4)
    np.savez(path / "strokes.npz", images=data.images[:, 0].numpy(), labels=data.labels.numpy())
    np.savez(path / "unknown.npz", images=data.images[:, 0].numpy(), labels=data.labels.numpy())
    save_classifier(path / "checkpoints" / "evaluators" / "resnet-strokes-npz", knows_strokes, dataset=data)
    return path


def scripted(folder: Path, *arguments: str, script: str) -> str:
    """Run one command in this process, with what the script makes of the tiny model."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("sample", "validation_loss"):
            patch.setattr(Tiny, name, getattr(Tiny, name))  # to be put back
        exec(script, {})
        return mnistgen(folder, *arguments)


def log(run: Path) -> list[dict[str, object]]:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def looks(run: Path) -> dict[int, dict[str, object]]:
    return {record["step"]: record["monitor"] for record in log(run) if "monitor" in record}


def frames(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "frames").iterdir())}


def test_missing_classes_are_told_once_by_name(folder: Path) -> None:
    flags = ("--monitor-every", "4", "--out", "collapsing", "--samples", "collapsing")
    text = scripted(folder, *TRAIN, *flags, script=COLLAPSING)
    told = [line for line in text.splitlines() if "the samples show" in line]
    expected = "(the second evaluator predicts fewer than a tenth of what was expected); the model may have collapsed."
    assert told == [
        f"warning: step 12: the samples show no 3, 7 {expected}",
        f"warning: step 20: the samples show no 7 {expected}",
        "step 28: the samples show every class again.",
    ]
    seen = looks(folder / "collapsing")
    assert list(seen) == [4, 8, 12, 16, 20, 24, 28, 30]
    assert [len(look["missing"]) for look in seen.values()] == [0, 0, 2, 2, 1, 1, 0, 0]
    last = seen[30]
    assert f"agreement {last['label_agreement']:.1%}  coverage {last['coverage']:.2f}" in text


def test_a_start_without_classes_is_no_news(folder: Path) -> None:
    # By then a tenth of the run is not over; after it the classes are there.
    script = COLLAPSING.replace("8 < step <= 16", "step <= 3").replace("8 < step <= 24", "step <= 3")
    flags = ("--monitor-every", "3", "--out", "beginning", "--samples", "beginning")
    assert "the samples show" not in scripted(folder, *TRAIN, *flags, script=script)
    assert looks(folder / "beginning")[3]["missing"] == [3, 7]


def test_killed_and_resumed_has_the_same_log_warnings_and_frames(folder: Path) -> None:
    # Samples of the trained weights, and from step 13 on none of class 2.
    script = (
        GAN
        + """
plain = tiny.Tiny.sample
def sample(self, y, *, noise):
    return plain(self, y.where((y != 2) | (self.seen < 16 * 13), 0), noise=noise)
tiny.Tiny.sample = sample
"""
    )
    every = (*TRAIN, "--validate-every", "5")  # of a model without a validation loss it says when to look
    whole = scripted(folder, *every, "--out", "whole", "--samples", "whole-pictures", script=script)
    assert list(looks(folder / "whole")) == [5, 10, 15, 20, 25, 30]
    flags = ("--out", "killed", "--samples", "killed-pictures", "--save-every", "0")
    first = mnistgen(folder, *every, *flags, code=-signal.SIGKILL, script=script + KILL)
    # As if the process had died after a look and before its state was written, and went on with fewer looks.
    RunFolder(folder / "killed").claim("frames/00000027.png").write_bytes(b"")
    second = scripted(folder, "train", "tiny", "--resume", "--out", "killed", script=script)
    assert log(folder / "killed") == log(folder / "whole")
    assert frames(folder / "killed") == frames(folder / "whole")
    assert same_weights(folder / "killed" / "model.safetensors", folder / "whole" / "model.safetensors")
    gifs = [folder / f"{run}-pictures" / "training.gif" for run in ("killed", "whole")]
    assert gifs[0].read_bytes() == gifs[1].read_bytes()

    def told(text: str) -> list[str]:
        return [line for line in text.splitlines() if "the samples show" in line]

    assert told(whole)
    assert told(first) + told(second) == told(whole)
    # A run without looks has the same weights: they disturb nothing.
    scripted(folder, *every, "--out", "alone", "--samples", "alone", "--monitor-every", "0", script=script)
    assert same_weights(folder / "alone" / "model.safetensors", folder / "whole" / "model.safetensors")
    assert not looks(folder / "alone")
    assert not (folder / "alone" / "frames").exists()
    assert not list((folder / "alone").glob("*.gif"))
    # The animation has a frame a look, each of the latents that the last model draws the last one from.
    pictures = [np.array(frame.convert("L")) for frame in ImageSequence.Iterator(Image.open(gifs[1]))]
    assert len(pictures) == 6
    assert frames(folder / "whole").keys() == {f"{step:08d}.png" for step in looks(folder / "whole")}
    tiny = load(folder / "whole" / "model.safetensors", model_class=Tiny)
    asked = (LABELS != 2) * LABELS
    assert np.array_equal(pictures[-1], grid(sample(tiny, asked)[:80], 10).numpy())
    assert b"Source: mnistgen train tiny" in gifs[1].read_bytes()


def test_a_new_run_starts_without_frames(folder: Path) -> None:
    flags = ("--monitor-every", "1", "--out", "again", "--samples", "again")
    mnistgen(folder, *TRAIN[:4], "--steps", "3", *flags)
    mnistgen(folder, *TRAIN[:4], "--steps", "2", *flags, "--overwrite")
    assert list(frames(folder / "again")) == ["00000001.png", "00000002.png"]
    assert Image.open(folder / "again" / "training.gif").n_frames == 2


def test_who_is_watched_without_asking(folder: Path) -> None:
    """A model without a validation loss on data that have a second evaluator; who asks in vain is told why."""
    mnistgen(folder, *TRAIN, "--out", "vae", "--samples", "vae", "--validate-every", "10")
    scripted(folder, *TRAIN[:4], "--steps", "2", "--validation", "0", "--out", "none", "--samples", "none", script=GAN)
    unknown = ("train", "tiny", "--data", "unknown.npz", "--steps", "2", "--overwrite", "--out", "u", "--samples", "u")
    assert "monitored" not in scripted(folder, *unknown, script=GAN)
    text = mnistgen(folder, *unknown, "--monitor-every", "1")
    assert "note: the samples are not monitored. There is no evaluator B for unknown-npz" in text
    assert text.count("not monitored") == 1
    assert [list(looks(folder / run)) for run in ("vae", "none", "u")] == [[], [2], []]
    assert not [path for run in ("vae", "none", "u") for path in (folder / run).glob("*.gif")]
    with pytest.raises(UsageError, match="--monitor-every is -1"):
        GeneratorOptions(monitor_every=-1)
    assert "monitor_every" not in {field.name for field in fields(ClassifierOptions)}


def test_of_two_processes_one_looks(folder: Path) -> None:
    flags = ("--steps", "4", "--monitor-every", "2", "--out", "two", "--samples", "two")
    two_processes(folder, *TRAIN[:4], *flags)
    assert list(looks(folder / "two")) == [2, 4]
    assert len(frames(folder / "two")) == 2


# Pictures.


def test_a_gif_holds_its_frames_exactly(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (20, 30), generator=generator, dtype=torch.uint8) for _ in range(4)]
    path = tmp_path / "deep" / "a.gif"
    save_gif(path, images, {"Source": "a command", "Seed": "7"}, milliseconds=100, scale=2)
    with Image.open(path) as picture:
        assert picture.info["loop"] == 0
        assert picture.info["comment"] == b"Source: a command\nSeed: 7"
        found = [(np.array(frame.convert("L")), frame.info["duration"]) for frame in ImageSequence.Iterator(picture)]
    assert [duration for _, duration in found] == [100, 100, 100, 1000]
    for (large, _), image in zip(found, images, strict=True):
        assert large.shape == (40, 60)
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            assert np.array_equal(large[row::2, column::2], image.numpy())
    for frames in ([], [images[0], images[0][:5]]):
        with pytest.raises(UsageError, match="at least one frame, and all of one size"):
            save_gif(path, frames)


@pytest.mark.parametrize("agreement", [0.5, None])
@pytest.mark.usefixtures("whole_figures")
def test_curves_of_what_was_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agreement: float | None) -> None:
    drawn: list[Figure] = []
    plain: Callable[..., None] = Figure.savefig

    def savefig(self: Figure, *arguments: object, **options: object) -> None:
        drawn.append(self)
        plain(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    records = [{"step": s, "lr": 1.0, "losses": {"critic": 0.1 * s}, "validation": None} for s in range(1, 5)]
    records[1]["monitor"] = {"label_agreement": agreement, "coverage": 0.25, "missing": []}
    records[3]["watch"] = {"label_agreement": agreement, "coverage": 0.75, "missing": [3]}
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    curves(tmp_path / "log.jsonl", tmp_path / "curves.png", "title")
    lines = {
        axes.get_title(): axes.get_lines()[0].get_xydata().tolist() for axes in drawn[0].axes if axes.get_visible()
    }
    assert lines["coverage (by the second evaluator)"] == [[2, 0.25], [4, 0.75]]
    assert lines.get("label agreement") == (None if agreement is None else [[2, 0.5], [4, 0.5]])
    assert len(lines["critic"]) == 4


def test_a_run_of_an_earlier_version_goes_on() -> None:
    options = _stored_options(_GeneratorWriter, {"watch_every": 3}, Path("run.json"))
    assert isinstance(options, GeneratorOptions)
    assert options.monitor_every == 3
    check = {"label_agreement": 0.5, "coverage": 0.25, "missing": [3]}
    assert Meter({"watch": check}).monitor == Meter({"monitor": check}).monitor == check
