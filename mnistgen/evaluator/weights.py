"""Classifiers as files in the checkpoint format, and those that ship in the package: two evaluators, one untrained."""

import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mnistgen.building import build, rebuild
from mnistgen.checkpoint import HOME, WEIGHTS, find, read, read_checkpoint, write
from mnistgen.data import Dataset
from mnistgen.errors import CheckpointError, ContractError, UsageError, suggestion
from mnistgen.evaluator.networks import CLASSIFIERS, Classifier

SHIPPED = {
    "A": "evaluator-a.safetensors",
    "B": "evaluator-b.safetensors",
    "random": "evaluator-random.safetensors",  # untrained, of any dataset: features that know nothing of classes
}
NETWORKS = {"A": "cnn", "B": "resnet"}  # what each evaluator is by its architecture
FOLDER = Path(__file__).parent.parent / "weights"
TRAINED = HOME / "evaluators"  # where `evaluator train` writes by default, as NAME-DATASET


def classifier_class(name: str) -> type[Classifier]:
    """The class of the classifier called `name`. Raises `UsageError` that suggests the nearest."""
    if name not in CLASSIFIERS:
        raise UsageError(f"There is no classifier {name!r}. {suggestion(name, CLASSIFIERS)}")
    return CLASSIFIERS[name]


def build_classifier(name: str, num_classes: int = 10, *, seed: int = 0, **fields: Any) -> Classifier:
    """An untrained classifier whose first weights come from `seed`; `fields` replace those of its config."""
    cls = classifier_class(name)
    return build(cls, cls.Config.from_dict(fields), num_classes, seed=seed)


def save_classifier(
    path: str | Path,
    model: Classifier,
    *,
    dataset: Dataset | None = None,
    steps: int = 0,
    seed: int = 0,
    seconds: float = 0.0,
    scores: Mapping[str, Any] | None = None,
    content: str = "",
) -> None:
    """Write a classifier (the averaged model of a run, `step.ema`) to a file, or as `model.safetensors` to a folder.

    `content` is the hash of the training images together with those held out of them, by which it is found again.

    Raises `CheckpointError` where a weight is not finite, and `MnistgenError` where the file cannot be written.
    """
    write(
        path,
        model,
        classifier=_name(model),
        dataset=dataset,
        steps=steps,
        seed=seed,
        seconds=seconds,
        scores=scores,
        content=content,
    )


def load_classifier(source: str | Path, *, device: str | torch.device = "cpu") -> Classifier:
    """Rebuild a classifier from its checkpoint (a file, a folder, or a name under `checkpoints/`), in eval mode.

    Raises `CheckpointError` where there is none, or it is damaged, or holds something other than a classifier.
    """
    path = find(source)
    about, weights = read(path)
    if not about.classifier:
        raise CheckpointError(f"{path}: holds no classifier. `mnistgen evaluator train NAME` makes one.")
    try:
        cls = classifier_class(about.classifier)
        model = rebuild(cls, cls.Config.from_dict(about.config), about.num_classes, weights)
        model.load_state_dict(weights)
        about.tell_classes(model)
    except (UsageError, ContractError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: does not fit this mnistgen: {reason[:300]}") from error
    return model.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload,no-any-return]


def load_evaluator(name: str = "A", *, device: str | torch.device = "cpu") -> Classifier:
    """Load a shipped evaluator, A or B, the second one, in eval mode; raises `UsageError` for another name."""
    return load_classifier(shipped_path(name), device=device)


def evaluator_path(dataset: str, name: str = "A", *, source: str | Path = "", content: str = "") -> Path:
    """The file of the evaluator for a dataset: the shipped one where it was trained on that dataset, otherwise the
    one that `mnistgen evaluator train` has left under `checkpoints/evaluators/` in the working folder: that which was
    trained on this `content` (the hash of the training images, where it is known), else that of the dataset's name.
    The untrained one, "random", is for every dataset.

    Raises `CheckpointError` that says how to make one, where there is none; `source` is what the dataset is called on
    the command line, where that is a path.
    """
    shipped = shipped_path(name)
    if shipped.is_file() and (name == "random" or read_checkpoint(shipped).dataset == dataset):
        return shipped
    if name == "random":
        raise CheckpointError(f"{shipped}: the untrained network is missing. Install mnistgen again.")
    network = NETWORKS[name]
    named = TRAINED / f"{network}-{dataset}" / WEIGHTS
    found = [path for path in (named, *sorted(TRAINED.glob(f"{network}-*/{WEIGHTS}"))) if path.is_file()]
    for path in found if content else ():
        try:
            if read_checkpoint(path).content == content:
                return path
        except CheckpointError:  # one that cannot be read is no reason not to find another
            continue
    if named.is_file():
        return named
    raise CheckpointError(
        f"There is no evaluator {name} for {dataset}: neither in the package nor at {named}. Make one: "
        f"{train_command(name, source or dataset)}"
    )


def train_command(name: str, source: str | Path) -> str:
    """The command that trains evaluator A or B for a dataset, given by its name or path."""
    return f"mnistgen evaluator train {NETWORKS[name]} --data {shlex.quote(str(source))}"


def evaluator_hash(model: Classifier) -> str:
    """16 hex digits of the SHA-256 of the architecture's name and the weights: equal hashes score equally."""
    digest = hashlib.sha256(f"mnistgen {type(model).__name__}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def shipped_path(name: str) -> Path:
    """The file of A or B in the package, whether or not it is there. Raises `UsageError` for another name."""
    if name not in SHIPPED:
        raise UsageError(f"There is no evaluator {name!r}. {suggestion(name, SHIPPED)}")
    return FOLDER / SHIPPED[name]


def _name(model: Classifier) -> str:
    for name, cls in CLASSIFIERS.items():
        if type(model) is cls:
            return name
    raise ContractError(f"{type(model).__name__} is none of the classifiers: {', '.join(CLASSIFIERS)}.")
