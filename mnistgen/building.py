"""Models out of a class, its config and a seed; never one that does not fit into memory.

A config may come from a file that one was sent, and say a width of a million or a billion blocks. So a model is built
under a budget: for one that is rebuilt, of as many numbers as its file has; for a new one, of what memory there is for
training it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from mnistgen import registry
from mnistgen.contract import told
from mnistgen.errors import MnistgenError, UsageError
from mnistgen.limits import checked_seed, free_memory, size
from mnistgen.model import BaseConfig, GenerativeModel, Trainable

IN_TRAINING = 5  # times the weights: themselves, gradients, their average and the optimizer's two moments
OPERATIONS = 20_000  # nothing that is trained here is made in as many
META = torch.device("meta")
_SHAPED = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn)  # of a shape and nothing else
SPARE = 2**24  # numbers that building may need beside the weights

M = TypeVar("M", bound=Trainable)


class TooLargeError(MnistgenError):
    """Building a model would take more than its budget."""


def create_model(name: str, num_classes: int = 10, seed: int = 0, **config: Any) -> GenerativeModel:
    """An untrained model by its registered name; its first weights come from `seed`, and `config` replaces defaults.

    Raises `UsageError` for an unknown name or field, a value that is not of its type, and a model that does not fit
    into memory; `PluginError` where the plugin fails.
    """
    cls = registry.model_class(name)
    return build(cls, cls.Config.from_dict(config), num_classes, seed=seed)  # type: ignore[return-value,unused-ignore]


def build(cls: type[M], config: BaseConfig, num_classes: int = 10, *, seed: int = 0) -> M:
    """An untrained model of a class. Raises `UsageError` where training it does not fit into memory."""
    free = free_memory()
    budget = math.inf if free is None else free / IN_TRAINING / 4  # float32
    try:
        with seeded(seed), float32(), told("__init__()", cls), _Budget(budget, OPERATIONS):
            return cls(config, num_classes)
    except TooLargeError as error:
        needed = IN_TRAINING * _bytes(cls, config, num_classes)
        takes = f"about {size(needed)}" if 0 < needed < math.inf else "more than can be counted"
        there = "" if free is None else f", and {size(free)} of memory are free here"
        raise UsageError(
            f"{_named(cls, config)} is too large: training it takes {takes}{there}. Give smaller numbers."
        ) from error


def rebuild(cls: type[M], config: BaseConfig, num_classes: int, weights: dict[str, Tensor]) -> M:
    """A model that is to hold `weights`.

    Raises `UsageError` where it would have far more numbers than those: what only training needs of a model
    (`Trainable.training_only`) is not among them.
    """
    numbers = sum(tensor.numel() for tensor in weights.values())
    try:
        with seeded(0), float32(), _Budget(16 * numbers + SPARE, 40 * len(weights) + 2000):
            return cls(config, num_classes)
    except TooLargeError as error:
        raise UsageError(
            f"its weights are {numbers:,} numbers, and a {_named(cls, config)} would be far larger ({error})"
        ) from error


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from `seed` inside, and leave the caller's random state as it was."""
    number = checked_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(number)
        yield


@contextmanager
def float32() -> Iterator[None]:
    """Floats are float32 inside, whatever the caller's default is: weights, images and noise are."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class _Budget(TorchFunctionMode):
    """Raises `TooLargeError` before more numbers are allocated inside than `numbers`, or after so many operations."""

    def __init__(self, numbers: float, operations: int) -> None:
        super().__init__()
        self.numbers, self.operations = numbers, operations
        self.spent, self.done = 0, 0

    def __enter__(self) -> _Budget:
        super().__enter__()  # type: ignore[no-untyped-call]
        self._init = nn.Module.__init__
        budget = self

        def counted(module: nn.Module, *arguments: Any, **keywords: Any) -> None:
            budget._count()  # modules without a tensor take memory, too
            budget._init(module, *arguments, **keywords)

        nn.Module.__init__ = counted  # type: ignore[method-assign,assignment]
        return self

    def __exit__(self, *error: Any) -> None:
        nn.Module.__init__ = self._init  # type: ignore[method-assign]
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._count()
        kwargs = kwargs or {}
        in_place = getattr(func, "__name__", "_").endswith("_")  # or an attribute, or a view by index
        if not in_place and self.numbers < math.inf:
            self.spent += _numel(func, args, kwargs)
            if self.spent > self.numbers:
                raise TooLargeError(f"more than {self.numbers:,.0f} numbers")
        return func(*args, **kwargs)

    def _count(self) -> None:
        self.done += 1
        if self.done > self.operations:
            raise TooLargeError(f"more than {self.operations:,} parts")


def _numel(func: Any, args: Any, kwargs: dict[str, Any]) -> int:
    """Estimate how many numbers a function will return; 0 where they cannot be many, or nobody knows.

    The meta device knows, but its first use takes a second: what is obvious is told without it.
    """
    values = tree_leaves((args, kwargs))
    most = math.prod(map(_size, values))
    if func in _SHAPED:
        return int(most)
    if most**2 <= SPARE:
        return 0
    on_meta = {key: _meta(value) for key, value in kwargs.items() if key not in ("device", "generator", "pin_memory")}
    if "device" in kwargs or not any(isinstance(value, Tensor) for value in values):
        on_meta["device"] = META
    try:
        result = func(*map(_meta, args), **on_meta)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        if "overflow" in str(error):
            raise TooLargeError("more numbers than can be counted") from error
        return 0
    return sum(tensor.numel() for tensor in tree_leaves(result) if isinstance(tensor, Tensor))


def _size(value: Any) -> float:
    """The factor by which an argument can multiply what a function returns."""
    if isinstance(value, Tensor):
        return max(1, value.numel())
    if isinstance(value, float):
        return max(1.0, abs(value), 1 / abs(value) if value else 1.0) if math.isfinite(value) else math.inf
    return max(1, abs(value)) if isinstance(value, int) else 1


def _meta(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_meta(each) for each in value]
    return value.to(META) if isinstance(value, Tensor) else value


def _bytes(cls: type[Trainable], config: BaseConfig, num_classes: int) -> float:
    """Estimate what a model's weights will take, without making them; 0 where its class cannot be built so.

    Infinity where nobody can count them.
    """
    try:
        with seeded(0), float32(), META, _Budget(math.inf, OPERATIONS):
            model = cls(config, num_classes)
        return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    except TooLargeError:
        return math.inf
    except Exception:  # noqa: BLE001  what is wrong, if anything is, shows when it is built in earnest
        return 0


def _named(cls: type, config: BaseConfig) -> str:
    """A class with the numbers that make it larger than usual."""
    usual = asdict(type(config)())
    larger = {
        key: value
        for key, value in asdict(config).items()
        if type(value) is int and type(usual[key]) is int and value > usual[key]
    }
    given = ", ".join(f"{key} {value}" for key, value in larger.items())
    return f"{cls.__name__}{' with ' * bool(given)}{given}"
