"""The arms of a study: what a classifier learns from beside the subset, and how its images are distorted."""

from dataclasses import dataclass
from typing import Literal

from mnistgen.errors import UsageError, suggestion
from mnistgen.experiments.recipe import AFFINE, ELASTIC, NO_DISTORTION
from mnistgen.transforms import Distortion

Source = Literal["", "subset", "pool", "everything", "real", "pseudo-labels"]
Role = Literal["baseline", "synthetic", "pool", "leaking"]


@dataclass(frozen=True)
class Arm:
    """One way of training a classifier."""

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
    """Arms of one role answer one question, and are corrected together."""

    @property
    def generated(self) -> bool:
        """Whether a generator draws the other images."""
        return self.other in ("subset", "pool", "everything")


REAL, CLASSICAL = "real", "classical"  # what every other arm is compared with
_ALL = (
    Arm(REAL, "real only", "the subset as it is"),
    Arm("affine", "real + affine", "rotations, sizes, shears and shifts", AFFINE),
    Arm(CLASSICAL, "real + affine + elastic", "the classical augmentation: elastic displacements, too", ELASTIC),
    Arm(
        "repeated",
        "real repeated",
        "the subset as it is, for as long as the longest arm: the generator's steps are the classifier's, too",
        repeated=True,
    ),
    Arm("synthetic", "real + synthetic", "the subset and synthetic images", other="subset", role="synthetic"),
    Arm(
        "classical-synthetic",
        "real + affine + elastic + synthetic",
        "the same with the classical augmentation of both",
        ELASTIC,
        "subset",
        role="synthetic",
    ),
    Arm(
        "synthetic-only",
        "synthetic only",
        "no real image, as many synthetic ones",
        other="subset",
        subset=False,
        role="synthetic",
    ),
    Arm(
        "more-real",
        "more real (ceiling)",
        "further real images in place of the synthetic ones, with the classical augmentation: what perfect synthetic "
        "images would give",
        ELASTIC,
        "real",
    ),
    Arm(
        "leaking",
        "LEAKING: real + affine + elastic + synthetic",
        "the generator was trained on the whole training set, which the classifier is not given: no fair comparison",
        ELASTIC,
        "everything",
        role="leaking",
    ),
    Arm(
        "pool",
        "UNLABELLED POOL: real + affine + elastic + synthetic",
        "the generator has seen other training images, too, without their labels; a classifier trained on the subset "
        "labelled them",
        ELASTIC,
        "pool",
        role="pool",
    ),
    Arm(
        "pseudo-labels",
        "UNLABELLED POOL: real + affine + elastic + pool",
        "those images themselves with those labels, without a generator: the control of the pool",
        ELASTIC,
        "pseudo-labels",
        role="pool",
    ),
)
ARMS = {arm.name: arm for arm in _ALL}
DEFAULT_ARMS = tuple(arm.name for arm in _ALL if arm.role != "pool")


def arms_called(names: tuple[str, ...]) -> tuple[Arm, ...]:
    """The arms of these names in the order of the table, "all" for all of them, and always the two that the others
    are compared with. Raises `UsageError` that suggests the nearest name."""
    for name in names:
        if name not in (*ARMS, "all"):
            raise UsageError(f"There is no arm {name!r}. {suggestion(name, [*ARMS, 'all'])}")
    return tuple(arm for arm in _ALL if "all" in names or arm.name in (*names, REAL, CLASSICAL))
