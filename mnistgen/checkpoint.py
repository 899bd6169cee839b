"""Checkpoints: one self-describing safetensors file a model, and beside it the state that exact resuming needs.

`load` rebuilds a model from the file alone. Nothing is ever unpickled: weights are safetensors, the resume state is
read with `weights_only=True`. Every write is atomic, so a killed process leaves the file as it was before, and both
files carry a checksum (`mnistgen.integrity`).
"""

import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from mnistgen import hub, integrity, registry
from mnistgen.building import rebuild
from mnistgen.data import Dataset
from mnistgen.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ContractError,
    DamagedRunError,
    UsageError,
    suggestion,
)
from mnistgen.fields import checked
from mnistgen.files import atomic_file
from mnistgen.model import GenerativeModel, Trainable, uncompiled
from mnistgen.published import SHIPPED

FORMAT = 1
WEIGHTS = "model.safetensors"
PREFIX = "mnistgen:"  # before a name: the shipped checkpoint, whatever there is in the working folder
HOME = Path("checkpoints")  # where training writes by default, in the working folder


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The description in a checkpoint file."""

    model: str = ""  # the registered name; empty for a classifier, and for a class that is not registered
    classifier: str = ""  # the name of a classifier (see `mnistgen.evaluator`)
    config: dict[str, Any]
    num_classes: int
    classes: list[int] | None = None  # those trained on; empty: without labels; None: all, in files that do not say
    class_names: list[str] = field(default_factory=list)  # one for each of `num_classes`, or none
    distribution: str = ""  # where the plugin comes from
    version: str = ""
    dataset: str = ""
    dataset_hash: str = ""  # of exactly the images trained on
    content: str = ""  # of a classifier: the hash of those and the ones held out, which is that of the dataset
    steps: int = 0
    seed: int = 0
    seconds: float = 0.0  # training time
    scores: dict[str, Any] = field(default_factory=dict)  # e.g. validation_loss
    format: int = FORMAT

    def tell_classes(self, network: Trainable) -> None:
        """Tell a network, built for `num_classes`, which classes it was trained on and what they are called."""
        if self.classes is not None:
            network.trained_classes = tuple(self.classes)
        network.class_names = tuple(self.class_names)


def save(
    path: str | Path,
    model: GenerativeModel,
    *,
    dataset: Dataset | None = None,
    steps: int = 0,
    seed: int = 0,
    seconds: float = 0.0,
    scores: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the model's weights and description to `path` (a folder gets `model.safetensors`).

    Pass the averaged model of a run (`step.ema`). `dtype` is what its parameters are stored in, float16 for a file of
    half the size; `load` makes a float32 model of it. Raises `CheckpointError` where a weight is not finite (what is
    at `path` stays) and `MnistgenError` where the file cannot be written.
    """
    model = uncompiled(model)
    entry = registry.entry_of(type(model))
    write(
        path,
        model,
        model=entry.name if entry else "",
        distribution=entry.distribution if entry else "",
        version=entry.version if entry else "",
        dataset=dataset,
        steps=steps,
        seed=seed,
        seconds=seconds,
        scores=scores,
        dtype=dtype,
    )


def write(
    path: str | Path,
    network: Trainable,
    *,
    dataset: Dataset | None,
    seconds: float,
    scores: Mapping[str, Any] | None,
    dtype: torch.dtype | None = None,
    **about: Any,
) -> None:
    """Write the weights and description of a generator or a classifier; `about` is the rest of the `Checkpoint`."""
    network = uncompiled(network)
    description = Checkpoint(
        config=asdict(network.config),
        num_classes=network.num_classes,
        classes=list(network.trained_classes),
        class_names=list(network.class_names),
        dataset=dataset.name if dataset else "",
        dataset_hash=dataset.hash if dataset else "",
        seconds=round(seconds, 1),
        scores=dict(scores or {}),
        **about,
    )
    _store(_weights_file(Path(path)), network, description, dtype)


def rewrite(source: str | Path, path: Path, *, model: GenerativeModel | None = None, dtype: torch.dtype) -> None:
    """Write a checkpoint again with its parameters stored in `dtype`, and what it says of itself unchanged.

    `model` is the one of `source` where its buffers have been changed since it was loaded.
    """
    _store(path, model or load(source), read_checkpoint(source), dtype)


def _store(path: Path, network: Trainable, description: Checkpoint, dtype: torch.dtype | None) -> None:
    state = {name.replace("_orig_mod.", ""): tensor for name, tensor in network.state_dict().items()}  # compiled parts
    tensors = {
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in state.items()
        if not is_training_only(network, name)
    }
    if dtype is not None:
        parameters = {name.replace("_orig_mod.", "") for name, _ in network.named_parameters()}
        tensors |= {name: tensors[name].to(dtype) for name in tensors.keys() & parameters}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: not written, because weight {name} is not finite.")
    metadata = {name: json.dumps(value) for name, value in asdict(description).items()}
    content = to_bytes(tensors, metadata | integrity.UNCHECKED)
    with atomic_file(path) as temporary:
        temporary.write_bytes(integrity.seal(content))


def load(
    source: str | Path, *, device: str | torch.device = "cpu", model_class: type[GenerativeModel] | None = None
) -> GenerativeModel:
    """Rebuild the model of a checkpoint (a name, a folder or a file), in eval mode.

    `model_class` is needed only for a class that is not registered as a plugin. Raises `CheckpointError` where
    there is none, or it is damaged, or the installed plugin's network is another one.
    """
    path = find(source)
    about, weights = read(path)
    if model_class is None:
        if about.classifier:
            raise CheckpointError(f"{path}: holds the classifier {about.classifier!r}, which generates no images.")
        if not about.model:
            raise CheckpointError(f"{path}: its model is no registered plugin; give its class as model_class=.")
        try:
            model_class = registry.model_class(about.model)
        except UsageError as error:
            if registry.is_file(about.distribution):
                raise CheckpointError(
                    f"{path}: its model is that of the file {about.distribution}; say where that is: "
                    f"--plugin ./{about.distribution}, or model_class= in Python."
                ) from error
            raise CheckpointError(
                f"{path}: needs the plugin {about.model!r} of {about.distribution}. {error}"
            ) from error
    try:
        config = model_class.Config.from_dict(about.config)
        model = rebuild(model_class, config, about.num_classes, weights)
        own = {name: tensor for name, tensor in model.state_dict().items() if is_training_only(model, name)}
        model.load_state_dict(own | weights)
        about.tell_classes(model)
    except (ContractError, UsageError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: does not fit the installed {about.model!r} (written by {about.distribution} {about.version}): "
            f"{reason[:300]}"
        ) from error
    return model.to(device).eval()


def weights_for(model: GenerativeModel, source: str | Path) -> dict[str, Tensor]:
    """The weights of a checkpoint that `model` may begin from: of the same kind, with weights of the same shapes.

    Raises `CheckpointError` where there is none, or it is damaged, or does not fit.
    """
    path = find(source)
    (about, weights), entry = read(path), registry.entry_of(type(model))
    if entry is None or about.model != entry.name:
        mine = entry.name if entry else type(model).__name__
        raise CheckpointError(f"{path}: is a checkpoint of {about.model or about.classifier!r}, and this is {mine!r}.")
    own = {name: tensor.shape for name, tensor in model.state_dict().items() if not is_training_only(model, name)}
    if {name: tensor.shape for name, tensor in weights.items()} != own:
        config = asdict(model.config)
        other = [f"{key} {value!r}" for key, value in about.config.items() if config.get(key) != value]
        raise CheckpointError(
            f"{path}: its weights have other shapes than this model's. It was trained on {about.num_classes} classes"
            f"{', with ' * bool(other)}{', '.join(other)}; give those that shape the network."
        )
    return weights


def is_training_only(network: Trainable, name: str) -> bool:
    """Whether a weight is one of those that no checkpoint holds (`Trainable.training_only`)."""
    return name.startswith(tuple(f"{part}." for part in network.training_only))


def read_checkpoint(source: str | Path) -> Checkpoint:
    """Read the description of a checkpoint, without building the model. Raises `CheckpointError`."""
    path = find(source)
    return _described(path, _content(path)[1])


def read(path: Path) -> tuple[Checkpoint, dict[str, Tensor]]:
    """Read the description in a checkpoint file, and its weights.

    Raises `CheckpointError` where it is damaged, or a weight is not finite.
    """
    content, header = _content(path)
    about = _described(path, header)
    try:
        weights: dict[str, Tensor] = from_bytes(content)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: is damaged: {error}") from error
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: weight {name} is not finite, so there is nothing to use of it.")
    return about, weights


def _content(path: Path) -> tuple[bytes, dict[str, Any]]:
    try:
        return integrity.read(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except integrity.DamagedError as error:
        raise CheckpointError(f"{path}: is no mnistgen checkpoint, or is damaged: {error}.") from error


def _described(path: Path, header: Mapping[str, Any]) -> Checkpoint:
    try:
        known = {item.name for item in fields(Checkpoint)}
        metadata = header.get("__metadata__", {})
        values = {name: json.loads(value) for name, value in metadata.items() if name in known}
        about = Checkpoint(**checked(Checkpoint, values))
    except (TypeError, ValueError, RecursionError, UsageError) as error:
        raise CheckpointError(f"{path}: is no mnistgen checkpoint, or is damaged: {error}") from error
    if about.format != FORMAT:
        raise CheckpointError(
            f"{path}: has format {about.format}, and this mnistgen reads format {FORMAT}. Upgrade it."
        )
    if not _sound_classes(about):
        raise CheckpointError(f"{path}: is damaged: its description makes no sense.")
    return about


def _sound_classes(about: Checkpoint) -> bool:
    k, classes = about.num_classes, [] if about.classes is None else about.classes
    if not isinstance(classes, list) or any(type(label) is not int for label in classes):
        return False
    of_k = all(0 <= label < k for label in classes) and classes == sorted(set(classes))
    return k >= 1 and of_k and len(about.class_names) in (0, k)


def find(source: str | Path) -> Path:
    """The weights file of a checkpoint given as a file, a folder, or a name.

    A name is one under `checkpoints/` in the working folder, else one of the starter checkpoints that are shipped;
    `mnistgen:NAME` always means the latter. A model's name alone, `vae`, is its checkpoint for MNIST, `vae-mnist`.
    hf://OWNER/NAME is one on the hub (`mnistgen.hub`).
    Raises `CheckpointNotFoundError` that names the nearest one there is.
    """
    if hub.is_address(source):
        address = hub.Address.of(str(source))
        return hub.fetch_file(address._replace(path=address.path or WEIGHTS), CheckpointNotFoundError)
    given = Path(source)
    if str(source).startswith(PREFIX):
        name = str(source).removeprefix(PREFIX)
        path = _shipped(name)
        if path is None:
            ship = (file.stem for folder in SHIPPED for file in folder.glob("*.safetensors"))
            raise CheckpointNotFoundError(f"There is no shipped checkpoint {name!r}. {suggestion(name, ship)}")
        return path
    places = [given, HOME / given, HOME / f"{source}.safetensors"]
    if given == Path(given.name):
        places += [folder / f"{given.name}.safetensors" for folder in SHIPPED]
        for_mnist = f"{given.name}-mnist"
        places += [HOME / for_mnist, *(folder / f"{for_mnist}.safetensors" for folder in (HOME, *SHIPPED))]
    unreadable = ""
    for path in places:
        try:
            if path.is_file():
                return path
            if (path / WEIGHTS).is_file():
                return path / WEIGHTS
        except OSError as error:  # a folder that may not be read, say; the others may hold it
            unreadable = unreadable or f" {path}: cannot be read: {error.strerror}."
    if not unreadable and given.is_dir():
        raise CheckpointNotFoundError(
            f"{given}: this folder holds no {WEIGHTS}. Train a model, or name another checkpoint."
        )
    hint = suggestion(str(source), checkpoint_names())
    raise CheckpointNotFoundError(
        f"There is no checkpoint {str(source)!r}, as a file, a folder or in {HOME}/.{unreadable} {hint}"
    )


def _shipped(name: str) -> Path | None:
    """The shipped checkpoint of that name, or for MNIST of the model of that name."""
    if Path(name).name != name:
        return None
    files = (folder / f"{stem}.safetensors" for stem in (name, f"{name}-mnist") for folder in SHIPPED)
    return next((file for file in files if file.is_file()), None)


def name_of(path: Path) -> str:
    """What a checkpoint is called by its file: a run's folder, a repository of the hub, or the file itself."""
    if path.name != WEIGHTS:
        return path.stem
    if path.parent.parent.name == "snapshots":  # in the hub's cache, as models--OWNER--NAME/snapshots/COMMIT
        return path.parents[2].name.rpartition("--")[2]
    return path.parent.name


def hidden(source: str | Path) -> str:
    """A sentence where a name means a checkpoint of the working folder and hides the shipped one; else empty."""
    shipped = _shipped(str(source))
    if shipped is None:
        return ""
    path = find(source)
    if path.samefile(shipped):
        return ""
    return f"{source} is {path} here; the checkpoint that ships with mnistgen is {PREFIX}{source}."


def checkpoint_names() -> list[str]:
    """The names that `find` knows, of the working folder and of what is shipped."""
    folders = (path.parent.name for path in HOME.glob(f"*/{WEIGHTS}"))
    files = (path.stem for home in (HOME, *SHIPPED) for path in home.glob("*.safetensors"))
    return sorted({*folders, *files})


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a `Run.state_dict()` for exact resuming, atomically and with a checksum."""
    content = io.BytesIO()
    torch.save(dict(state), content)
    with atomic_file(path) as temporary:
        temporary.write_bytes(integrity.write_line(content.getvalue()))


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote. Raises `CheckpointError` where it is missing, `DamagedRunError` where damaged."""
    if not path.is_file():
        raise CheckpointError(f"{path}: is not there, so there is nothing to resume. Leave out --resume to start.")
    try:
        content = io.BytesIO(integrity.read_line(path.read_bytes(), former=b"PK"))
        state = torch.load(content, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise DamagedRunError(f"{path}: is damaged and cannot be resumed ({str(error).splitlines()[0]}).") from error
    if not isinstance(state, dict) or "identity" not in state:
        raise DamagedRunError(f"{path}: is not the state of a run.")
    return state


def _weights_file(path: Path) -> Path:
    return path if path.suffix == ".safetensors" else path / WEIGHTS
