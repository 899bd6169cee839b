"""torchvision beside a CPU-only torch.

torchvision's wheels on the package index are built for CUDA. Beside a CPU-only torch their compiled operators
cannot load, and `import torchvision` ends in "operator torchvision::nms does not exist", because the package
attaches Python code to operators that nobody has declared. mnistgen uses none of them: it needs `datasets`,
`transforms.v2` and `utils`, which are Python. So the missing operators are declared, without an implementation,
and the import succeeds; calling one of them still fails, and says so.
"""

import importlib
import re
from types import ModuleType

import torch

from mnistgen.errors import MnistgenError

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

# A declaration lives as long as its library.
_libraries: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """The module `torchvision`, with `datasets`, `transforms.v2` and `utils` imported.

    The operators are declared only after a plain import has failed for the want of one. Raises `MnistgenError`
    where torchvision is not installed or fails for another reason.
    """
    try:
        return _import()
    except RuntimeError as error:
        if not re.search(r"operator torchvision::\w+ does not exist", str(error)):
            raise _failure(error) from error
    except ImportError as error:
        raise _failure(error) from error

    _declare_missing_operators()
    try:
        return _import()
    except (ImportError, RuntimeError) as error:
        raise _failure(error) from error


def _import() -> ModuleType:
    module = importlib.import_module("torchvision")
    for name in ("datasets", "transforms.v2", "utils"):
        importlib.import_module(f"torchvision.{name}")
    return module


def _declare_missing_operators() -> None:
    # A fragment, not a definition: the namespace stays open to whoever else declares operators in it.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _libraries.append(library)


def _failure(error: Exception) -> MnistgenError:
    return MnistgenError(
        f"torchvision cannot be imported beside torch {torch.__version__}: {error}. "
        "Install the torchvision that belongs to this torch (https://pytorch.org)."
    )
