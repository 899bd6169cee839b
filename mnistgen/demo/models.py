"""The models of the demo: known by their checkpoints, and loaded when they are first asked for."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mnistgen.checkpoint import Checkpoint, find, load, read_checkpoint
from mnistgen.errors import UsageError, suggestion
from mnistgen.model import GenerativeModel
from mnistgen.published import shipped_checkpoints
from mnistgen.registry import model_class
from mnistgen.sampling.options import SamplingOption, sampling_options

FIRST = "flow"  # of the shipped models, the one that is shown first


@dataclass(frozen=True)
class Entry:
    """A checkpoint, and what its model can be told."""

    name: str
    path: Path
    about: Checkpoint

    @cached_property
    def cls(self) -> type[GenerativeModel]:
        return model_class(self.about.model)

    @cached_property
    def options(self) -> tuple[SamplingOption, ...]:
        """The options that a control can set: numbers, yes or no, and choices, but no text such as a path."""
        return tuple(option for option in sampling_options(self.cls) if option.kind is not str)

    def checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options that are given, in the type of their defaults; None stands for the default.

        Raises `UsageError` for one that the model does not have, and for a value that is no number.
        """
        if not isinstance(given, Mapping):
            raise UsageError(f"Sampling options are values by name, such as {{'steps': 8}}, not {given!r}.")
        known = {option.name: option for option in self.options}
        checked = {}
        for name, value in given.items():
            if value is None:
                continue
            if name not in known:
                raise UsageError(f"{self.name} has no sampling option {name!r}. {suggestion(name, known)}")
            kind = type(known[name].default)
            try:
                checked[name] = kind(value)
            except (TypeError, ValueError) as error:
                raise UsageError(f"{name} is {value!r}; it is to be of the kind {kind.__name__}.") from error
            if kind is int and checked[name] != value:
                raise UsageError(f"{name} is {value}; it is a whole number.")
        return checked


class Models:
    """The models by name, in the order of their names; the first one is what a page begins with."""

    def __init__(self, names: Sequence[str] = (), *, device: str | torch.device = "cpu") -> None:
        """`names` of checkpoints; without any, all that ship. Raises `CheckpointError` where there is none."""
        self.entries = {name: Entry(name, path, read_checkpoint(path)) for name, path in _paths(names).items()}
        for entry in self.entries.values():
            if not entry.about.model:
                load(entry.path)  # which says why it cannot be
        self.device = device
        self._loaded: dict[str, GenerativeModel] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Entry:
        if name not in self.entries:
            raise UsageError(f"There is no model {name!r} here. {suggestion(name, self.entries)}")
        return self.entries[name]

    @property
    def names(self) -> list[str]:
        return list(self.entries)

    @property
    def num_classes(self) -> int:
        """The classes of the model that has most of them."""
        return max(entry.about.num_classes for entry in self.entries.values())

    def able(self, *abilities: type) -> list[str]:
        """The names of the models that have all of these abilities."""
        return [name for name, entry in self.entries.items() if all(issubclass(entry.cls, kind) for kind in abilities)]

    def load(self, name: str) -> GenerativeModel:
        """The model itself. Raises `CheckpointError` where its file is damaged."""
        entry = self[name]
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = load(entry.path, device=self.device)
            return self._loaded[name]


def _paths(names: Sequence[str]) -> dict[str, Path]:
    if names:
        return {name: find(name) for name in dict.fromkeys(names)}
    shipped = shipped_checkpoints()
    if not shipped:
        raise UsageError("No checkpoints ship with this installation; name those that the demo is to show.")
    return dict(sorted(shipped.items(), key=lambda item: (item[0] != FIRST, item[0])))
