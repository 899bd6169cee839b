"""The former place of the diffusion family's solvers, which are in `mnistgen_plugins.diffusion.solvers` now."""

import importlib
import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    value = getattr(importlib.import_module("mnistgen_plugins.diffusion.solvers"), name)
    warnings.warn(
        f"mnistgen.solvers.{name} is mnistgen_plugins.diffusion.{name} now.", DeprecationWarning, stacklevel=2
    )
    return value
