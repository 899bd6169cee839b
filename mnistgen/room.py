"""Whether a batch fits into memory, found out with small ones."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mnistgen.limits import require_memory

TRUSTED = 1000  # images at a time that are not worth a trial
TRIALS = (4, 12)
SPARE = 1.5  # what kernels need for themselves is in no tensor


def require_room(images: int, device: torch.device, what: str, work: Callable[[int], Any]) -> None:
    """Raise `UsageError` where `work` on as many images at a time does not fit; `what` begins the sentence.

    `work` does as many as it is told to, and is told to twice, with a few: what does not grow with them, such as
    gradients, is not confused with what does.
    """
    if images <= TRUSTED:
        return
    most = []
    for count in TRIALS:
        with Peak() as peak:
            work(count)
        most.append(peak.most)
    each = (most[1] - most[0]) / (TRIALS[1] - TRIALS[0])
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    require_memory(most[0] + SPARE * each * (images - TRIALS[0]), what, free)


class Peak(TorchDispatchMode):
    """The bytes of all tensors that are made inside and live at the same time, at most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live, self.most = 0, 0
        self._known: weakref.WeakKeyDictionary[torch.UntypedStorage, None] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for storage in _storages((args, kwargs)):  # weights, and what came from outside
            self._known.setdefault(storage)
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._known:
            self._known[storage] = None
            self.live += storage.nbytes()
            self.most = max(self.most, self.live)
            weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, size: int) -> None:
        self.live -= size


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [tensor.untyped_storage() for tensor in tree_leaves(values) if isinstance(tensor, Tensor)]
