"""Everything about a study that is fixed in advance, in one place: nothing here is chosen by a test split.

The learning rates, the batch and the lengths were chosen on 5,000 held-out training images of MNIST, with subsets of
10 and 100 a class out of the others: at 300 and 949 steps the CNN with affine and elastic augmentation read 96% and
98.5% of them right, and half as many steps more gained nothing.
"""

import dataclasses
import inspect
import math
from typing import Any, Literal

from mnistgen.model import BaseConfig, GenerativeModel
from mnistgen.transforms import Distortion

SIZES = (10, 100)  # images a class, of the default study
SEEDS = 5  # repetitions, each with subsets, generators and classifiers of its own
RATIO = 5.0  # synthetic images for each real one
MODELS = ("flow", "vae")  # of the default study
CLASSIFIERS = ("cnn",)

BATCH = 32  # images in a step of a classifier
REAL_SHARE = 0.5  # of the images of a batch, where an arm has other images beside the subset's
LABELLER = "cnn"  # labels the pool and filters synthetic images, trained on the subset alone
POOL = 10_000  # other training images that the generator of the pool regime may see, without their labels
CONFIDENT = 0.95  # the least confidence at which the labeller's label of a pool image is believed
DRAWS = 4.0  # at most as many draws for one image that passes the confidence filter

LEVEL = 0.05  # of the tests, and one less the confidence of the intervals
POWER = 0.8  # at which the number of pairs is given
EFFECT = 0.1  # what would matter: so large a part of the errors of the arm that is compared with

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

# What is known beforehand of MNIST, by images a class: a baseline below is weak, and a gain over it means nothing.
LEAST_OF_A_BASELINE = {10: 0.88, 100: 0.973, 1000: 0.992}  # convolutional, with affine and elastic augmentation
NEAREST = {10: 0.720, 100: 0.887, 500: 0.936, 1000: 0.953}  # one nearest neighbour
NEAREST_SHIFTED = {10: 0.752, 100: 0.908, 500: 0.950}  # with the nine shifts by at most one pixel
MOST_NEAREST, MOST_SHIFTED = 10_000, 5_000  # images of a subset in which a nearest neighbour is looked for

# The loop.
LOOP_IMAGES = 10_000  # samples that a generation is scored by
GUIDANCE_OFF = {"guidance_scale": 1.0, "guidance": 0.0}  # knobs of `sample`, and their value without guidance
Mode = Literal["replace", "accumulate", "fresh"]


def classifier_steps(images: int) -> int:
    """Steps of a classifier for a subset of so many images, the same in every arm: 30 sqrt(n), 300 for 100 images."""
    return max(1, round(30 * math.sqrt(images)))


def generator_config(name: str, cls: type[GenerativeModel]) -> BaseConfig:
    """Hyperparameters of a model that is trained in a study: its defaults, but for what GENERATOR holds."""
    fields = {field.name for field in dataclasses.fields(cls.Config)}
    return cls.Config(**{key: value for key, value in GENERATOR.get(name, {}).items() if key in fields})


def sampling_knobs(name: str, cls: type[GenerativeModel]) -> dict[str, Any]:
    """Knobs of the images that a study adds: the defaults, but for what SAMPLING holds."""
    known = inspect.signature(cls.sample).parameters
    return {key: value for key, value in SAMPLING.get(name, {}).items() if key in known}


def generator_steps(images: int) -> int:
    """Steps of a generator that is trained on so many labelled images: 80 n^(1/3), 371 for 100 images.

    Epochs would give 100 images a few dozen steps and 60,000 more than a study can pay.
    """
    return max(1, round(80 * math.cbrt(images)))
