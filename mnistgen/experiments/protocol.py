"""The protocol of a study: the conditions it compares, and every number that is fixed in advance.

Nothing here is chosen by a test split. The learning rates, the batch and the lengths were chosen on 5,000 held-out
training images of MNIST, with subsets of 10 and 100 a class out of the others: at 300 and 949 steps the CNN with affine
and elastic augmentation read 96% and 98.5% of them right, and half as many steps more gained nothing.
"""

import dataclasses
import inspect
import math
from dataclasses import dataclass
from typing import Any, Literal

from mnistgen.errors import UsageError, suggestion
from mnistgen.model import BaseConfig, GenerativeModel
from mnistgen.transforms import Distortion

SIZES = (10, 100)  # images per class, of the default study
SEEDS = 5  # repetitions, each with subsets, generators and classifiers of its own
RATIO = 5.0  # synthetic images for each real one
MODELS = ("flow", "vae")  # of the default study
CLASSIFIERS = ("cnn",)

BATCH = 32  # images in a step of a classifier
REAL_FRACTION = 0.5  # of the images of a batch, where a condition has other images beside the subset's
LABELLER = "cnn"  # labels the pool and filters synthetic images, trained on the subset alone
POOL = 10_000  # other training images that the generator of the pool may see, without their labels
CONFIDENT = 0.95  # the least confidence at which the labeller's label of a pool image is believed
DRAWS = 4.0  # at most as many samples for one image that passes the confidence filter

EFFECT = 0.1  # what would matter: so large a part of the errors of the condition that is compared with

NO_DISTORTION = Distortion()
AFFINE = Distortion(rotation=12.0, zoom=0.15, shear=0.15, translation=2.0, untouched=0.25)
ELASTIC = dataclasses.replace(AFFINE, elastic=1.2)

# Every field that moves a result is said here, so that the evaluators' own recipes can change without moving any.
_COMMON: dict[str, Any] = {
    "batch_size": BATCH,
    "weight_decay": 0.0,
    "schedule": "cosine",
    "warmup_steps": 1000,  # cut by the host to a tenth of the run
    "ema_decay": 0.999,
    "clip_norm": 0.0,
    "label_smoothing": 0.0,
}
CLASSIFIER: dict[str, dict[str, Any]] = {
    "cnn": _COMMON | {"lr": 3e-3, "weight_decay": 0.02, "dropout": 0.2},
    "lenet": _COMMON | {"lr": 1e-2},
    "mlp": _COMMON | {"lr": 3e-3, "hidden": 128},
    "logistic": _COMMON | {"lr": 3e-3},
}
# Where the defaults of a model have changed since studies were published; these are what they were.
GENERATOR: dict[str, dict[str, Any]] = {"flow": {"middle_guidance": 1.0}}
SAMPLING: dict[str, dict[str, Any]] = {"flow": {"steps": 9}}

# Published baselines of MNIST, by images per class: a baseline below is weak, and a gain over it means nothing.
LEAST_OF_A_BASELINE = {10: 0.88, 100: 0.973, 1000: 0.992}  # convolutional, with affine and elastic augmentation
NEAREST = {10: 0.720, 100: 0.887, 500: 0.936, 1000: 0.953}  # one nearest neighbour
NEAREST_SHIFTED = {10: 0.752, 100: 0.908, 500: 0.950}  # with the nine shifts by at most one pixel
MOST_NEAREST, MOST_SHIFTED = 10_000, 5_000  # images of a subset in which a nearest neighbour is looked for

# Self-consuming training.
LOOP_IMAGES = 10_000  # samples that a generation is scored by
GUIDANCE_OFF = {"guidance_scale": 1.0, "guidance": 0.0}  # sampling parameters, and their value without guidance
Mode = Literal["replace", "accumulate", "fresh"]

Source = Literal["", "subset", "pool", "everything", "real", "pseudo-labels"]
Role = Literal["baseline", "synthetic", "pool", "leaking"]


@dataclass(frozen=True)
class Condition:
    """One way of training a classifier: what it learns from beside the subset, and how images are distorted."""

    name: str
    title: str
    about: str
    distortion: Distortion = NO_DISTORTION
    other: Source = ""
    """Where the images beside the subset's come from: a generator that has seen the subset, the subset and the pool,
    or everything; further real images; or the pool itself."""
    subset: bool = True
    """Whether the subset's own images are learnt from."""
    repeated: bool = False
    """Whether the classifier gets the steps of a generator on top of its own."""
    role: Role = "baseline"
    """Conditions of one role answer one question, and are corrected together."""

    @property
    def generated(self) -> bool:
        """Whether a generator makes the other images."""
        return self.other in ("subset", "pool", "everything")


REAL, CLASSICAL = "real", "classical"  # what every other condition is compared with
_CLASSICAL = "real + affine + elastic"
CONDITIONS = {
    condition.name: condition
    for condition in (
        Condition(REAL, "real only", "the subset as it is"),
        Condition("affine", "real + affine", "rotations, sizes, shears and shifts", AFFINE),
        Condition(CLASSICAL, _CLASSICAL, "the classical augmentation: elastic displacements, too", ELASTIC),
        Condition(
            "repeated",
            "real repeated",
            "the subset as it is, for as long as the longest one: the generator's steps are the classifier's, too",
            repeated=True,
        ),
        Condition("synthetic", "real + synthetic", "the subset and synthetic images", other="subset", role="synthetic"),
        Condition(
            "classical-synthetic",
            f"{_CLASSICAL} + synthetic",
            "the same with the classical augmentation of both",
            ELASTIC,
            "subset",
            role="synthetic",
        ),
        Condition(
            "synthetic-only",
            "synthetic only",
            "no real image, as many synthetic ones",
            other="subset",
            subset=False,
            role="synthetic",
        ),
        Condition(
            "more-real",
            "more real (ceiling)",
            "further real images in place of the synthetic ones, with the classical augmentation: what perfect "
            "synthetic images would give",
            ELASTIC,
            "real",
        ),
        Condition(
            "leaking",
            f"LEAKING: {_CLASSICAL} + synthetic",
            "the generator was trained on the whole training set, which the classifier is not given: not comparable",
            ELASTIC,
            "everything",
            role="leaking",
        ),
        Condition(
            "pool",
            f"UNLABELLED POOL: {_CLASSICAL} + synthetic",
            "the generator has seen other training images, too, without their labels; a classifier trained on the "
            "subset labelled them",
            ELASTIC,
            "pool",
            role="pool",
        ),
        Condition(
            "pseudo-labels",
            f"UNLABELLED POOL: {_CLASSICAL} + pool",
            "those images themselves with those labels, without a generator: the control of the pool",
            ELASTIC,
            "pseudo-labels",
            role="pool",
        ),
    )
}
DEFAULT_CONDITIONS = tuple(condition.name for condition in CONDITIONS.values() if condition.role != "pool")


def find_conditions(names: tuple[str, ...]) -> tuple[Condition, ...]:
    """Return the conditions of these names in the order of the table, "all" for all of them, and always the two that
    the others are compared with. Raises `UsageError` that suggests the nearest name."""
    for name in names:
        if name not in (*CONDITIONS, "all"):
            raise UsageError(f"There is no condition {name!r}. {suggestion(name, [*CONDITIONS, 'all'])}")
    return tuple(c for c in CONDITIONS.values() if "all" in names or c.name in (*names, REAL, CLASSICAL))


def classifier_steps(images: int) -> int:
    """Steps of a classifier for a subset of so many images, the same in every condition: 30 sqrt(n)."""
    return max(1, round(30 * math.sqrt(images)))


def generator_steps(images: int) -> int:
    """Steps of a generator that is trained on so many labelled images: 80 n^(1/3), 371 for 100 images.

    Epochs would give 100 images a few dozen steps and 60,000 more than a study can pay.
    """
    return max(1, round(80 * math.cbrt(images)))


def generator_config(name: str, cls: type[GenerativeModel]) -> BaseConfig:
    """Hyperparameters of a model that is trained in a study: its defaults, but for what GENERATOR holds."""
    fields = {field.name for field in dataclasses.fields(cls.Config)}
    return cls.Config(**{key: value for key, value in GENERATOR.get(name, {}).items() if key in fields})


def sampling_options(name: str, cls: type[GenerativeModel]) -> dict[str, Any]:
    """Sampling options of the images that a study adds: the defaults, but for what SAMPLING holds."""
    known = inspect.signature(cls.sample).parameters
    return {key: value for key, value in SAMPLING.get(name, {}).items() if key in known}
