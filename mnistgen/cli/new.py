"""`mnistgen new NAME`: a distribution of one model that works, to start one's own from."""

import keyword
import re
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Annotated

import tyro

from mnistgen.cli import arguments as flags
from mnistgen.errors import UsageError
from mnistgen.files import atomic_folder
from mnistgen.registry import claims
from mnistgen.text import say

EXAMPLES = """
mnistgen new my-model                    write mnistgen-my-model/ here
mnistgen new my-model --out ~/models/my-model
"""


@dataclass(frozen=True, kw_only=True)
class Options(flags.Common):
    """Write a new plugin as a starting point: a small model that trains, its pyproject.toml, its test."""

    name: Annotated[str, tyro.conf.Positional]
    """Name of the model: lower-case letters and digits, in words joined by - or _."""
    out: Path | None = None
    """Folder to write; mnistgen-NAME where not given."""


def run(arguments: list[str], prog: str) -> int:
    options = flags.parse(Options, arguments, prog=prog, examples=EXAMPLES)
    folder = (options.out or Path(f"mnistgen-{options.name}")).expanduser()
    write_plugin(options.name, folder)
    say(f"Wrote {folder}. Next:")
    for command in (f"pip install -e {folder}", f"mnistgen check {options.name}", f"mnistgen train {options.name}"):
        say(f"  {command}")
    return 0


def write_plugin(name: str, folder: Path) -> None:
    """Write the distribution of a model called `name`.

    Raises `UsageError` where the name cannot be used or is taken, `MnistgenError` where `folder` holds anything.
    """
    words = re.split("[-_]", name)
    class_name = "".join(word.capitalize() for word in words)
    if not re.fullmatch("[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or keyword.iskeyword(class_name):
        raise UsageError(f"{name!r} cannot name a model; use lower-case letters and digits, as in 'my-model'.")
    taken = claims().get(name)
    if taken:
        raise UsageError(f"There is a model {name!r} already, of {taken[0].source}; choose another name.")
    package = "_".join(["mnistgen", *words])
    if find_spec(package) is not None:
        raise UsageError(f"There is a Python package {package!r} already; choose another name than {name!r}.")
    values = {
        "name": name,
        "distribution": f"mnistgen-{'-'.join(words)}",
        "package": package,
        "class_name": class_name,
        "version": version("mnistgen"),
    }
    targets = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        "init.py": f"{package}/__init__.py",
        "model.py": f"{package}/model.py",
        "test_model.py": "tests/test_model.py",
    }
    templates = files("mnistgen") / "templates" / "plugin"
    with atomic_folder(folder) as temporary:
        for source, target in targets.items():
            path = temporary / target
            path.parent.mkdir(parents=True, exist_ok=True)
            text = (templates / f"{source}.txt").read_text(encoding="utf-8")
            path.write_text(Template(text).substitute(values), encoding="utf-8")
