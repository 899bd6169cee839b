"""Classifiers as files: the checkpoint format with one more entry, and the two evaluators that ship in the package."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from mnistgen.checkpoint import HOME, WEIGHTS, Checkpoint, find, read_checkpoint
from mnistgen.data import Dataset
from mnistgen.errors import CheckpointError, ContractError, UsageError, suggestion
from mnistgen.evaluator.networks import CLASSIFIERS, Classifier
from mnistgen.files import atomic_file

SHIPPED = {"A": "evaluator-a.safetensors", "B": "evaluator-b.safetensors"}
FOLDER = Path(__file__).parent.parent / "weights"
TRAINED = HOME / "evaluators"  # where `evaluator train` writes by default, as NAME-DATASET
KIND = "classifier"  # the metadata entry that says which of CLASSIFIERS a checkpoint holds


def classifier_class(name: str) -> type[Classifier]:
    """The class of the classifier called `name`. Raises `UsageError` that suggests the nearest."""
    if name not in CLASSIFIERS:
        raise UsageError(f"There is no classifier {name!r}. {suggestion(name, CLASSIFIERS)}")
    return CLASSIFIERS[name]


def build_classifier(name: str, num_classes: int = 10, *, seed: int = 0, **fields: Any) -> Classifier:
    """An untrained classifier whose first weights come from `seed`; `fields` replace those of its config."""
    cls = classifier_class(name)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return cls(cls.Config(**fields), num_classes)


def save_classifier(
    path: str | Path,
    model: Classifier,
    *,
    dataset: Dataset | None = None,
    steps: int = 0,
    seed: int = 0,
    seconds: float = 0.0,
    scores: Mapping[str, Any] | None = None,
) -> None:
    """Write a classifier (the averaged model of a run, `step.ema`) to a file, or as `model.safetensors` to a folder.

    Raises `CheckpointError` where a weight is not finite, and `MnistgenError` where the file cannot be written.
    """
    path = Path(path)
    path = path if path.suffix == ".safetensors" else path / WEIGHTS
    about = Checkpoint(
        model="",  # no plugin
        config=asdict(model.config),
        num_classes=model.num_classes,
        dataset=dataset.name if dataset else "",
        dataset_hash=dataset.hash if dataset else "",
        steps=steps,
        seed=seed,
        seconds=round(seconds, 1),
        scores=dict(scores or {}),
    )
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: not written, because weight {name} is not finite.")
    metadata = {name: json.dumps(value) for name, value in asdict(about).items()}
    content = to_bytes(tensors, metadata | {KIND: json.dumps(_name(model))})
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def load_classifier(source: str | Path, *, device: str | torch.device = "cpu") -> Classifier:
    """Rebuild a classifier from its checkpoint (a file, a folder, or a name under `checkpoints/`), in eval mode.

    Raises `CheckpointError` where there is none, or it is damaged, or holds something other than a classifier.
    """
    path = find(source)
    about = read_checkpoint(path)
    try:
        with safe_open(path, "pt") as file:
            name = json.loads((file.metadata() or {}).get(KIND, "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no mapping
        if name is None:
            raise CheckpointError(f"{path}: holds no classifier. `mnistgen evaluator train NAME` makes one.")
        cls = classifier_class(name)
        model = cls(cls.Config.from_json(json.dumps(about.config)), about.num_classes)
        model.load_state_dict(tensors)
    except (SafetensorError, OSError, UsageError, ContractError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: does not fit this mnistgen: {reason[:300]}") from error
    return model.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload,no-any-return]


def load_evaluator(name: str = "A", *, device: str | torch.device = "cpu") -> Classifier:
    """A shipped evaluator: A scores, B audits. In eval mode; raises `UsageError` for another name."""
    return load_classifier(shipped_path(name), device=device)


def evaluator_path(dataset: str, name: str = "A") -> Path:
    """The file of the evaluator for a dataset: the shipped one where it was trained on that dataset, otherwise the
    one that `mnistgen evaluator train` has left under `checkpoints/evaluators/` in the working folder.

    Raises `CheckpointError` that says how to make one, where there is none.
    """
    shipped = shipped_path(name)
    if shipped.is_file() and read_checkpoint(shipped).dataset == dataset:
        return shipped
    network = "cnn" if name == "A" else "resnet"
    trained = TRAINED / f"{network}-{dataset}" / WEIGHTS
    if trained.is_file():
        return trained
    raise CheckpointError(
        f"There is no evaluator {name} for {dataset}: neither in the package nor at {trained}. Make one: "
        f"mnistgen evaluator train {network} --data {dataset}"
    )


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
