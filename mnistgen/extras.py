"""Packages that only some things need, and that an extra of the distribution installs."""

import importlib.util

from mnistgen.errors import MnistgenError


def require_packages(what: str, *packages: str, extra: str, error: type[MnistgenError] = MnistgenError) -> None:
    """Raise `error` where one of the packages is missing; `what` needs them, and `extra` installs them."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise error(f"{what} needs {', '.join(missing)}, which is not installed: pip install 'mnistgen[{extra}]'.")
