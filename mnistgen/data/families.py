"""The datasets that are known by name: their files on disk, their classes, and what is odd about them."""

import string
from collections.abc import Mapping
from dataclasses import dataclass, field

_DIGITS = tuple(string.digits)
# EMNIST merges the lower-case letters that look like their capitals in its by-merge and balanced splits.
_MERGED = (*string.digits, *string.ascii_uppercase, *"abdefghnqrt")


@dataclass(frozen=True)
class Family:
    """One dataset in the layout of `torchvision.datasets`: `<data folder>/<folder>/raw/<file>`."""

    title: str
    folder: str  # also the name of torchvision's class, which knows mirrors and checksums
    files: Mapping[str, tuple[str, str]]  # split -> images, labels
    class_names: tuple[str, ...]
    first_label: int = 0
    transposed: bool = False  # the files hold the images with rows and columns exchanged
    hashes: Mapping[str, str] = field(default_factory=dict)  # split -> `Dataset.hash`, where that is known
    sha256: Mapping[str, str] = field(default_factory=dict)  # file -> SHA-256 of what it unpacks to, likewise


_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def _emnist(split: str, class_names: tuple[str, ...], first_label: int = 0) -> Family:
    files = {
        part: (f"emnist-{split}-{part}-images-idx3-ubyte", f"emnist-{split}-{part}-labels-idx1-ubyte")
        for part in ("train", "test")
    }
    return Family(f"EMNIST {split}", "EMNIST", files, class_names, first_label, transposed=True)


FAMILIES = {
    "mnist": Family(
        "MNIST",
        "MNIST",
        _FILES,
        _DIGITS,
        hashes={"train": "c793f765fd255530", "test": "ba58600db7efb7e0"},
        sha256={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "fashion": Family(
        "Fashion-MNIST",
        "FashionMNIST",
        _FILES,
        ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "kmnist": Family("KMNIST", "KMNIST", _FILES, ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")),
    "qmnist": Family(
        "QMNIST",
        "QMNIST",
        {part: (f"qmnist-{part}-images-idx3-ubyte", f"qmnist-{part}-labels-idx2-int") for part in ("train", "test")},
        _DIGITS,
    ),
    "emnist-byclass": _emnist("byclass", (*string.digits, *string.ascii_uppercase, *string.ascii_lowercase)),
    "emnist-bymerge": _emnist("bymerge", _MERGED),
    "emnist-balanced": _emnist("balanced", _MERGED),
    "emnist-letters": _emnist("letters", tuple(string.ascii_lowercase), first_label=1),
    "emnist-digits": _emnist("digits", _DIGITS),
    "emnist-mnist": _emnist("mnist", _DIGITS),
}

DIGITS = "digits"  # the synthetic dataset that comes with the package

ALIASES = {"fashion-mnist": "fashion", "fashionmnist": "fashion", "kuzushiji-mnist": "kmnist", "k-mnist": "kmnist"}
