"""Several processes: each takes its share of every batch, and together they are one run."""

import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from mnistgen.errors import ContractError, UsageError


class Share:
    """This process's part of the work; with one process, all of it.

    The gradients of a loss are averaged in one flattened all-reduce that carries its logs along, because a loss
    that is not a module's `forward` cannot be wrapped in DistributedDataParallel.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def of(cls, batch: int) -> "Share":
        if not (dist.is_available() and dist.is_initialized()):
            return cls(0, 1)
        size = dist.get_world_size()
        if batch % size:
            raise UsageError(f"A batch of {batch} images cannot be shared equally by {size} processes.")
        return cls(dist.get_rank(), size)

    def rows(self, rows: Tensor) -> Tensor:
        return rows.chunk(self.size)[self.rank] if self.size > 1 else rows

    def agree(self, model: nn.Module) -> None:
        """Start from the first process's weights."""
        if self.size > 1:
            for tensor in [*model.parameters(), *model.buffers()]:
                dist.broadcast(tensor.data, 0)

    def average(self, parameters: list[nn.Parameter], logs: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.size == 1:
            return logs
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([piece.reshape(-1).float() for piece in (*gradients, *logs.values())])
        dist.all_reduce(flat)
        *means, scalars = (flat / self.size).split([*(gradient.numel() for gradient in gradients), len(logs)])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view(gradient.shape))
        return dict(zip(logs, scalars.unbind(), strict=True))

    def sum(self, values: Tensor) -> Tensor:
        if self.size > 1:
            values = self._on_backend(values)
            dist.all_reduce(values)
        return values.cpu()

    def any(self, flag: bool) -> bool:
        return bool(self.sum(torch.tensor([float(flag)]))[0] > 0) if self.size > 1 else flag

    def randomness(self, batch: int) -> AbstractContextManager[Any]:
        return WholeBatch(batch, self.rank, self.size) if self.size > 1 else nullcontext()

    @staticmethod
    def _on_backend(values: Tensor) -> Tensor:
        # Time and sums are float64 on the CPU; nccl only moves what is on the GPU.
        return values.cuda() if dist.get_backend() == "nccl" else values


class WholeBatch(TorchDispatchMode):
    """Draw every random tensor with one row per image for the whole batch inside, and keep this process's rows.

    All processes draw from the same seed, so together they see the noise that one process would see, and a run on
    several has the loss curve of a run on one. It stands where torch's operators meet, below dropout, attention and
    every other function made of them. Raises `ContractError` for an operator whose rows cannot be had one by one.
    """

    # The rows of dropout need be no images: attention has heads, and a sequence may come first. A CPU's is bernoulli_.
    _DROPOUT = frozenset(("native_dropout", "_fused_dropout", "bernoulli_"))
    _FILLS = frozenset(("normal", "uniform", "bernoulli", "exponential", "cauchy", "log_normal", "geometric", "random"))
    _MAKES = frozenset(
        ("rand", "randn", "randint", "rand_like", "randn_like", "randint_like", "multinomial", "normal_functional")
    )
    _BY_ROW = _DROPOUT | _MAKES | _FILLS | {f"{name}_" for name in _FILLS}

    def __init__(self, batch: int, rank: int, size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.batch, self.rank, self.size = batch, rank, size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not _is_random(func):
            return func(*args, **kwargs)
        names = [argument.name for argument in func._schema.arguments]
        name, given = func._schema.name.removeprefix("aten::"), {**dict(zip(names, args, strict=False)), **kwargs}
        rows = len(args[0]) if name in self._DROPOUT and args[0].ndim else self.batch
        whole = {key: self._grown(key, value, rows, given) for key, value in given.items()}
        if _is_off(name, given) or all(whole[key] is value for key, value in given.items()):
            return func(*args, **kwargs)  # what no image has for itself is the same everywhere
        if name not in self._BY_ROW or "out" in given or _is_permutation(name, given):
            raise ContractError(
                f"losses() calls torch's {name}, whose random numbers cannot be drawn image by image, as several "
                "processes need them; use others (those of torch.rand, say), or train in one process."
            )
        drawn = func(*(whole[key] for key in names[: len(args)]), **{key: whole[key] for key in kwargs})
        mine = slice(self.rank * rows, (self.rank + 1) * rows)
        return args[0].copy_(drawn[mine]) if name.endswith("_") else tree_map(lambda x: x[mine], drawn)

    def _grown(self, key: str, value: Any, rows: int, given: Mapping[str, Any]) -> Any:
        """An argument for the whole batch where it is one for this process's: a size, a count, or a tensor of rows."""
        one_row = "num_samples" in given and given["self"].ndim == 1  # of probabilities, from which each image draws
        if isinstance(value, Tensor):
            # Each process fills the others' rows with its own, since probabilities of zero are no probabilities.
            of_rows = value.ndim > 0 and len(value) == rows and not one_row
            return _repeated(value.detach(), self.size) if of_rows else value
        if key == "size" and value and value[0] == rows:
            return [self.size * rows, *value[1:]]
        return self.size * rows if value == rows and (key == "n" or (key == "num_samples" and one_row)) else value


def _repeated(x: Tensor, times: int) -> Tensor:
    """`x` several times in dimension 0, in memory as `x` is, since that is the order in which it is filled."""
    order = sorted(range(x.ndim), key=x.stride, reverse=True)
    laid_out = torch.cat([x.permute(order)] * times, dim=order.index(0))
    return laid_out.permute([order.index(dim) for dim in range(x.ndim)])


@functools.cache
def _is_random(operator: Any) -> bool:
    takes_generator = any(str(argument.type) == "Optional[Generator]" for argument in operator._schema.arguments)
    return takes_generator or torch.Tag.nondeterministic_seeded in operator.tags


def _is_off(name: str, given: Mapping[str, Any]) -> bool:
    """Whether dropout, of itself, of attention or of a recurrent network, is switched off in this call."""
    p = [given.get(key) for key in ("dropout_p", "dropout", *(["p"] if "dropout" in name else []))]
    return 0 in [value for value in p if value is not None] or False in (given.get("train"), given.get("training"))


def _is_permutation(name: str, given: Mapping[str, Any]) -> bool:
    """Whether what an image gets hangs on what the others got: draws without replacement from one row."""
    return name == "multinomial" and given["self"].ndim == 1 and not given.get("replacement", False)


@contextmanager
def process_group() -> Iterator[int]:
    """Inside, processes started by `torchrun` are joined (nccl on GPUs, gloo elsewhere); yields this one's rank.

    Outside `torchrun` it yields 0 and does nothing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()
