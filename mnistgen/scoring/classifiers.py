"""The scores that train a classifier: can one tell samples from real images, and what can one learn from them?

Both train with the host's loop, for a number of steps that is fixed whatever the number of images and without a look at
what the score is taken on, so that scores of equal n compare. The classifier two-sample test needs no labels and
notices anything that a network notices, a background that is not quite black included; that is why it also looks at
binarised images, where only shapes are left. The classification accuracy score trains the evaluators' CNN; it needs
labels, and falls where classes are wrong, missing or monotonous.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mnistgen.data import Dataset, Images, as_dataset
from mnistgen.data.binarised import threshold
from mnistgen.data.dataset import check_images
from mnistgen.errors import UsageError
from mnistgen.evaluator import Classifier, Evaluation, build_classifier, evaluate
from mnistgen.evaluator.networks import CNNConfig
from mnistgen.training import train
from mnistgen.transforms import Distortion

LEAST = 100  # images a side
TWO_SAMPLE_STEPS = 400  # 51,200 images: 3 passes over four fifths of 10,000 images a side
TRAINED_ON = 0.8  # share of the images that the two-sample test trains on; of the others is the accuracy
CAS_STEPS = 1200  # 153,600 images: 15 passes over 10,000

# Every field that moves a score is said here, so that the evaluators' own recipe can change without moving any.
RECIPE: dict[str, Any] = {
    "batch_size": 128,
    "lr": 3e-3,
    "weight_decay": 0.02,
    "schedule": "cosine",
    "warmup_steps": 1000,  # cut by the host to a tenth of the run
    "ema_decay": 0.999,
    "clip_norm": 0.0,
    "label_smoothing": 0.0,
    "dropout": 0.2,
    **asdict(Distortion()),  # none
}
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class TwoSample:
    """Accuracies with which a classifier tells samples from real images, and real images from real images, both of
    equal n."""

    accuracy: float  # 0.5 where samples cannot be told from real images, 1 where each can
    interval: tuple[float, float]  # Wilson's, 95%, over the held-out images, for the network that was trained
    control_accuracy: float  # of the same test with other real images for samples: what the best samples reach
    control_interval: tuple[float, float]
    n: int  # held-out images, which each accuracy is of, half of them real
    n_train: int  # images that each network was trained on, half of them real

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, for JSON."""
        return {
            "accuracy": self.accuracy,
            "interval_95": list(self.interval),
            "control_accuracy": self.control_accuracy,
            "control_interval_95": list(self.control_interval),
            "n": self.n,
            "n_train": self.n_train,
        }


@dataclass(frozen=True)
class TwoSampleTest:
    """The two-sample test of images as they are, and of the same images binarised."""

    as_is: TwoSample
    binarised: TwoSample

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, for JSON."""
        return {"as_is": self.as_is.to_dict(), "binarised": self.binarised.to_dict()}


@dataclass(frozen=True)
class CAS:
    """Classification accuracy scores: of a classifier trained on samples, and of one trained on as many real images."""

    accuracy: float
    interval: tuple[float, float]  # Wilson's, 95%, over the test images, for the network that was trained
    real_accuracy: float
    real_interval: tuple[float, float]
    n: int  # samples that the first network was trained on
    n_real: int  # real images that the second was trained on
    n_test: int  # images that each accuracy is of

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, for JSON."""
        return {
            "accuracy": self.accuracy,
            "interval_95": list(self.interval),
            "real_accuracy": self.real_accuracy,
            "real_interval_95": list(self.real_interval),
            "n": self.n,
            "n_real": self.n_real,
            "n_test": self.n_test,
        }


class TwoSampleNetwork(Classifier):
    """A small CNN that sees each pixel's grey level, and eight numbers that it learns for that level.

    Between white and a little less than white lies a two-hundredth of the range, and real strokes are full of plateaus
    and of levels that a model of real numbers never quite hits: where levels are categories as well as numbers, a few
    hundred steps are enough to see that.
    """

    Config = CNNConfig
    config: CNNConfig

    def __init__(self, config: CNNConfig, num_classes: int = 2) -> None:
        super().__init__(config, num_classes)
        self.levels = nn.Embedding(256, 8)
        self.body = nn.Sequential(
            _conv(9, 32), _conv(32, 32, stride=2), _conv(32, 64), _conv(64, 64, stride=2), _conv(64, 64)
        )
        self.head = nn.Linear(64, num_classes)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        levels = self.levels(((x + 1) * 127.5).round().long().clamp(0, 255))  # (b, 1, h, w, 8)
        maps = self.body(torch.cat([x, rearrange(levels, "b 1 h w c -> b c h w")], 1))  # (b, 64, h / 4, w / 4)
        h = maps.mean((2, 3))
        return {"penultimate": h, "logits": self.head(F.dropout(h, self.config.dropout, self.training))}


def _conv(channels: int, out: int, *, stride: int = 1) -> nn.Module:
    """relu(bn(conv(x)))."""
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


def two_sample(
    samples: Tensor,
    real: Tensor,
    control: Tensor,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    steps: int = TWO_SAMPLE_STEPS,
    progress: Progress | None = None,
) -> TwoSampleTest:
    """The classifier two-sample test (Lopez-Paz & Oquab 2017, https://arxiv.org/abs/1610.06545).

    Images are (n, 1, 28, 28), (m, 1, 28, 28), (k, 1, 28, 28) uint8. `real` are test images and `control` other real
    images, such as the model's training images. All three are cut to the size of the smallest by `seed`; a random four
    fifths of each train a network to tell the sides apart, the others are what the accuracy is of. The control depends
    on `seed` and that size and not on the samples. Four trainings of `steps` steps; `progress` is called after each
    step with what is trained and the share of it that is done.

    Of 10,000 images a side, MNIST's training images are told from its test images, which other writers wrote, with 53%,
    with noise of one grey level in the ink with 98%, and samples of the shipped flow model with 95%
    (`benchmarks/two_sample.py`).

    Raises `UsageError` where images are not of that shape and type or fewer than 100.
    """
    metric = "The two-sample test"
    sides = {"real images": real, "control images": control, "samples": samples}
    for name, images in sides.items():
        _check(images, name, metric)
    n = min(map(len, sides.values()))
    generator = torch.Generator().manual_seed(seed)  # the samples come last: their number moves nothing of the control
    real, control, samples = (_some(images, n, generator) for images in sides.values())

    def tell(what: str, images: Tensor, others: Tensor) -> Evaluation:
        return distinguish(images, others, what=what, seed=seed, device=device, steps=steps, progress=progress)

    def view(name: str, change: Callable[[Tensor], Tensor]) -> TwoSample:
        x, theirs, others = change(samples), change(control), change(real)
        result = tell(f"samples against real images, {name}", x, others)
        floor = tell(f"real images against real images, {name}", theirs, others)
        held_out = len(result.labels)
        return TwoSample(
            result.accuracy, result.interval, floor.accuracy, floor.interval, n=held_out, n_train=2 * n - held_out
        )

    return TwoSampleTest(as_is=view("as they are", lambda images: images), binarised=view("binarised", threshold))


def distinguish(
    images: Tensor,
    others: Tensor,
    *,
    what: str = "two sets of images",
    seed: int = 0,
    device: str | torch.device = "cpu",
    steps: int = TWO_SAMPLE_STEPS,
    progress: Progress | None = None,
) -> Evaluation:
    """One training of `two_sample`: tell images from others, as many of them and both in random order, by a network
    that is trained on the first four fifths, on the rest."""
    cut = round(TRAINED_ON * len(images))
    training = _sides(images[:cut], others[:cut], "train")
    model = _train(what, _network(seed), training, steps, seed, device, progress)
    return evaluate(model, _sides(images[cut:], others[cut:], "test"))


def classification_accuracy_score(
    samples: Images,
    real: Dataset,
    test: Dataset,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    steps: int = CAS_STEPS,
    equal: bool = True,
    progress: Progress | None = None,
) -> CAS:
    """The classification accuracy score (Ravuri & Vinyals 2019, https://arxiv.org/abs/1905.10887).

    A network trained on nothing but samples, labelled as they were requested, classifies the test images; so does one
    trained on as many real training images: with `equal`, the larger of `samples` and `real` is cut to the size of the
    smaller by `seed`. A class that the samples lack is never read, which costs the score its share of the test images.
    Two trainings of `steps` steps; `progress` is called after each step with what is trained and the share of it that
    is done.

    Raises `UsageError` where samples have no labels or labels of other classes, where images are not (n, 1, 28, 28)
    uint8 or fewer than 100, and where `real` and `test` differ in their classes.
    """
    metric = "The classification accuracy score"
    samples = as_dataset(samples, name="samples", num_classes=test.num_classes)
    for name, images in (("samples", samples.images), ("real images", real.images), ("test images", test.images)):
        _check(images, name, metric)
    if real.num_classes != test.num_classes:
        raise UsageError(
            f"{metric}: the real images have {real.num_classes} classes and the test images {test.num_classes}; "
            "take both from one dataset."
        )
    ours = _labelled(samples, test.num_classes, metric=metric)
    most = min(len(ours), len(real)) if equal else None
    generator = torch.Generator().manual_seed(seed)  # the samples come last, as in the two-sample test
    real = real.subset(_order(len(real), generator)[:most])
    ours = ours.subset(_order(len(ours), generator)[:most])
    result, theirs = (
        learn(data, test, what=what, seed=seed, device=device, steps=steps, progress=progress)
        for what, data in (("learning from samples", ours), ("learning from real images", real))
    )
    return CAS(
        result.accuracy,
        result.interval,
        theirs.accuracy,
        theirs.interval,
        n=len(ours),
        n_real=len(real),
        n_test=len(test),
    )


def learn(
    data: Dataset,
    test: Dataset,
    *,
    what: str = "learning from samples",
    seed: int = 0,
    device: str | torch.device = "cpu",
    steps: int = CAS_STEPS,
    progress: Progress | None = None,
) -> Evaluation:
    """One side of `classification_accuracy_score`: train on these images alone, and read the test images."""
    model = build_classifier("cnn", data.num_classes, seed=seed, **RECIPE)
    return evaluate(_train(what, model, data, steps, seed, device, progress), test)


def _network(seed: int) -> TwoSampleNetwork:
    """An untrained one, whose first weights come from `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TwoSampleNetwork(CNNConfig(**RECIPE))


def _train(
    what: str,
    model: Classifier,
    data: Dataset,
    steps: int,
    seed: int,
    device: str | torch.device,
    progress: Progress | None,
) -> Classifier:
    """The averaged network after `steps` steps on `data`."""
    report = (lambda _: None) if progress is None else partial(progress, what)
    return train(model, data, steps=steps, seed=seed, device=device, progress=report)


def _sides(images: Tensor, real: Tensor, split: str) -> Dataset:
    """Images (h, 1, 28, 28) as class 0 and as many real ones as class 1."""
    labels = torch.arange(2).repeat_interleave(len(real))
    return Dataset(torch.cat([images, real]), labels, num_classes=2, name="two-sample", split=split)


def _some(images: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """`n` of the images in random order, on the CPU."""
    return images.cpu()[_order(len(images), generator)[:n]]


def _order(n: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(n, generator=generator)


def _check(images: Tensor, what: str, metric: str) -> None:
    check_images(images, f"the {what}", least=LEAST, where=f"{metric}: ", error=UsageError)


def _labelled(samples: Dataset, num_classes: int, *, metric: str) -> Dataset:
    """The samples, on the CPU. Raises `UsageError` where they have no labels, or those of other classes."""
    if samples.labels is None:
        raise UsageError(f"{metric}: the samples have no labels to learn from; give samples of a conditional model.")
    if samples.num_classes != num_classes:
        raise UsageError(
            f"{metric}: the samples have {samples.num_classes} classes and the test images {num_classes}; "
            "score them with the dataset that their model was trained on."
        )
    return samples.to("cpu")
