"""`mnistgen new NAME`: one model that works, to start one's own from, as a distribution or as a file."""

import keyword
import re
import shlex
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Annotated, Literal

import tyro

from mnistgen.cli import arguments as flags
from mnistgen.errors import MnistgenError, UsageError
from mnistgen.files import atomic_file, atomic_folder
from mnistgen.registry import claims, is_file
from mnistgen.text import say

Family = Literal["vae", "gan", "diffusion", "autoregressive", "normalizing_flow"]

EXAMPLES = """
mnistgen new my-model                    write mnistgen-my-model/ here
mnistgen new my-model --out ~/models/my-model
mnistgen new my-flow --family normalizing_flow
mnistgen new ./mymodel.py --family gan   one file, without packaging: mnistgen train ./mymodel.py
"""


@dataclass(frozen=True, kw_only=True)
class Options(flags.Common):
    """Write a new plugin as a starting point: a small model that trains, its pyproject.toml, its test."""

    name: Annotated[str, tyro.conf.Positional]
    """Name of the model: lower-case letters and digits, in words joined by - or _. Or a file to write, ./mymodel.py"""
    family: Family = "vae"
    """The template that the model begins as, with the abilities of its family."""
    out: Path | None = None
    """Folder to write; mnistgen-NAME where not given."""


def run(arguments: list[str], prog: str) -> int:
    options = flags.parse(Options, arguments, prog=prog, examples=EXAMPLES)
    if is_file(options.name):
        target = Path(options.name).expanduser()
        write_file(target, options.family)
        given = shlex.quote(options.name)
        commands = [f"mnistgen check {given} --quick", f"mnistgen train {given}"]
    else:
        target = (options.out or Path(f"mnistgen-{options.name}")).expanduser()
        write_plugin(options.name, target, options.family)
        commands = [f"pip install -e {shlex.quote(str(target))}"]
        commands += [f"mnistgen {verb} {options.name}" for verb in ("check", "train")]
    say(f"Wrote {target}. Next:")
    for command in commands:
        say(f"  {command}")
    return 0


def write_file(path: Path, family: Family = "vae") -> None:
    """Write a model of `family` as one file.

    Raises `UsageError` where the file's name cannot name a model, or is taken; `MnistgenError` where there is the file.
    """
    class_name = _class_name(path.stem)
    if path.exists() or path.is_symlink():
        raise MnistgenError(f"{path}: exists already; choose another name.")
    with atomic_file(path) as temporary:
        temporary.write_text(_filled(f"{family}.py", class_name=class_name, model=f"./{path.name}"), "utf-8")


def _class_name(name: str) -> str:
    """The class of a model called `name`. Raises `UsageError` where nothing can be called so, or something is."""
    class_name = "".join(word.capitalize() for word in re.split("[-_]", name))
    if not re.fullmatch("[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or keyword.iskeyword(class_name):
        raise UsageError(f"{name!r} cannot name a model; use lower-case letters and digits, as in 'my-model'.")
    taken = claims().get(name)
    if taken:
        raise UsageError(f"There is a model {name!r} already, of {taken[0].source}; choose another name.")
    return class_name


def _filled(template: str, **values: str) -> str:
    text = (files("mnistgen") / "templates" / "plugin" / f"{template}.txt").read_text(encoding="utf-8")
    return Template(text).substitute(values)


def write_plugin(name: str, folder: Path, family: Family = "vae") -> None:
    """Write the distribution of a model called `name`, which begins as one of `family`.

    Raises `UsageError` where the name cannot be used or is taken, `MnistgenError` where `folder` holds anything.
    """
    class_name, words = _class_name(name), re.split("[-_]", name)
    package = "_".join(["mnistgen", *words])
    if find_spec(package) is not None:
        raise UsageError(f"There is a Python package {package!r} already; choose another name than {name!r}.")
    values = {
        "name": name,
        "model": name,
        "distribution": f"mnistgen-{'-'.join(words)}",
        "package": package,
        "class_name": class_name,
        "version": version("mnistgen"),
    }
    targets = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        "init.py": f"{package}/__init__.py",
        f"{family}.py": f"{package}/model.py",
        "test_model.py": "tests/test_model.py",
    }
    with atomic_folder(folder) as temporary:
        for source, target in targets.items():
            path = temporary / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_filled(source, **values), encoding="utf-8")
