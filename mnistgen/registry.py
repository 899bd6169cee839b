"""From the names of models to their classes, by the entry points of what is installed.

Listing reads the metadata of distributions and, for family and description, the source text of the classes: it
imports no plugin and no torch. A plugin is imported when its class is asked for, and its failure is its own.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from functools import lru_cache, reduce
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from mnistgen.errors import PluginError, UsageError, described, suggestion

if TYPE_CHECKING:
    from mnistgen.model import GenerativeModel, Trainable

GROUP = "mnistgen.models"
_FILE = re.compile(r"(?P<path>.*\.py)(?::(?P<name>\w+))?")  # ./mymodel.py, or ./mymodel.py:MyModel
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # a model's name is the name of folders and files, too


class Entry(NamedTuple):
    """One model as its distribution registers it."""

    name: str
    distribution: str
    version: str
    value: str  # "package.module:Class"
    family: str = ""  # this and the description are read from the source; empty where that cannot be read
    description: str = ""

    @property
    def source(self) -> str:
        """The distribution and its version, as errors and tables show them."""
        return f"{self.distribution} {self.version}".strip()


def claims() -> dict[str, list[Entry]]:
    """Every registered name with all that claim it, sorted; more than one is a clash. Nothing is imported.

    What no model can be called is left out (see `misnamed`).
    """
    found: dict[str, list[Entry]] = {}
    for entry in _registered():
        others = found.setdefault(entry.name, [])
        # An editable install can put one distribution on sys.path twice.
        if all((entry.distribution, entry.value) != (other.distribution, other.value) for other in others):
            others.append(entry)
    return {name: sorted(found[name]) for name in sorted(found) if _NAME.fullmatch(name)}


def misnamed() -> list[Entry]:
    """The entries under a name that no model can have: a path, nothing, control characters."""
    return sorted({entry for entry in _registered() if not _NAME.fullmatch(entry.name)})


def unreadable() -> dict[str, str]:
    """The installed distributions whose entry points cannot be read, and why: a damaged file hides its own models."""
    return {name: found for name, found in _distributions() if isinstance(found, str)}


def misnomer(entry: Entry) -> str:
    """The sentence about a name that no model can have."""
    return (
        f"{entry.source} registers {entry.value!a} as {entry.name!a}, which cannot name a model: a name is up to 64 "
        f"letters, digits, '_', '-' and '.', and begins with a letter or digit. Rename the entry point of "
        f"{entry.distribution}."
    )


def list_models() -> list[str]:
    """The names of the models there are, sorted; `entries` has what is known of each."""
    return [name for name, found in claims().items() if len(found) == 1]


def entries() -> dict[str, Entry]:
    """The models by name, without those that two distributions claim (see `claims`)."""
    return {name: _described(found[0]) for name, found in claims().items() if len(found) == 1}


def model_class(name: str) -> type[GenerativeModel]:
    """Import the model called `name`.

    Raises `UsageError` on an unknown name, and `PluginError` where two distributions claim it, where importing it
    fails, or where what it names is no complete `GenerativeModel`.
    """
    entry = _entry(name)
    where = f"Model {name!r} of {entry.source} ({entry.value})"
    module, attribute = _target(entry.value)
    if not module or not attribute:
        raise PluginError(f"{where} cannot be loaded: its entry point must read 'package.module:Class'.")
    try:
        found = reduce(getattr, attribute.split("."), importlib.import_module(module))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything on import; it is shown as its failure
        raise PluginError(
            f"{where} cannot be imported: {described(error)}. Repair or uninstall {entry.distribution}."
        ) from error

    from mnistgen.model import GenerativeModel  # imports torch, which listing does without

    if not (isinstance(found, type) and issubclass(found, GenerativeModel)):
        raise PluginError(f"{where} is not a subclass of mnistgen.GenerativeModel; derive the class from it.")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise PluginError(f"{where} is abstract; it has still to define {missing}.")
    return found


def is_file(name: str) -> bool:
    """Whether a model is given as a file, `./mymodel.py`, or as one class of it, `./mymodel.py:MyModel`."""
    return _FILE.fullmatch(name) is not None


def register_file(given: str) -> str:
    """Make the model of a Python file known to this process, under the name of the file, which is returned.

    Raises `UsageError` where there is no such file or class, where it has none or several, and where the name is
    taken; `PluginError` where the file cannot be imported.
    """
    match = _FILE.fullmatch(given)
    if match is None:
        raise UsageError(f"{given!r} is no Python file; give one as in ./mymodel.py, or ./mymodel.py:MyModel.")
    path, wanted = Path(match["path"]).expanduser(), match["name"]
    name = path.stem
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file.")
    if not _NAME.fullmatch(name):
        raise UsageError(f"{path}: {name!a} cannot name a model; call the file by letters, digits, '_', '-' and '.'.")
    others = [entry for entry in claims().get(name, []) if entry.name not in _FILES]
    if others:
        raise UsageError(f"{path}: there is a model {name!r} already, of {others[0].source}; rename the file.")
    module = _import_file(path)
    classes = _models_in(module)
    if wanted is None and len(classes) != 1:
        several = f"{path}: defines {' and '.join(classes)}; name one of them, as in {path}:{next(iter(classes), '')}."
        none = f"{path}: defines no model; derive a class from mnistgen.GenerativeModel."
        raise UsageError(several if classes else none)
    if wanted is not None and wanted not in classes:
        raise UsageError(f"{path}: defines no model {wanted!r}. {suggestion(wanted, classes)}")
    value = f"{module.__name__}:{wanted or classes[0]}"
    _FILES[name] = FileModel(Entry(name, path.name, "", value), given)
    return name


def file_of(name: str) -> str:
    """The file of a model that was given as one, as it was given; empty for an installed one."""
    return _FILES[name].given if name in _FILES else ""


class FileModel(NamedTuple):
    """A model of a file that this process was given."""

    entry: Entry
    given: str


_FILES: dict[str, FileModel] = {}


def _import_file(path: Path) -> ModuleType:
    """The module of a Python file, which may import others from its folder, as a script may."""
    name = "mnistgen_file_" + re.sub(r"\W", "_", path.stem)
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == spec.origin]
        where = f":{lines[-1]}" if lines else ""
        raise PluginError(f"{path}{where} cannot be imported: {described(error)}.") from error
    return module


def _models_in(module: ModuleType) -> list[str]:
    """The names of the models that a module defines; those that lack a method only where there is no other."""
    from mnistgen.model import GenerativeModel  # imports torch, which listing does without

    found = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, GenerativeModel) and value.__module__ == module.__name__
    ]
    return [name for name in found if not inspect.isabstract(getattr(module, name))] or found


def entry_of(model: type[Trainable]) -> Entry | None:
    """The entry by which a class is registered, or None. Nothing is imported: where a class exists, so does its
    module."""
    for entries in claims().values():
        for entry in entries:
            if _imported(entry) is model:
                return _described(entry)
    return None


def _imported(entry: Entry) -> object:
    """The object that an entry names, where its module is imported already; else None."""
    module, attribute = _target(entry.value)
    try:
        return reduce(getattr, attribute.split("."), sys.modules[module])
    except Exception:  # noqa: BLE001  a module's own __getattr__ may raise anything, and is then another model's
        return None


def _registered() -> Iterator[Entry]:
    yield from (model.entry for model in _FILES.values())
    for _, found in _distributions():
        if not isinstance(found, str):
            yield from found


def _distributions() -> Iterator[tuple[str, list[Entry] | str]]:
    """Each installed distribution with what it registers here, or with why that cannot be read.

    As the import system has it, the first of one name on sys.path counts.
    """
    known = set()
    for distribution in importlib.metadata.distributions():
        place = Path(str(getattr(distribution, "_path", "an unnamed distribution"))).name
        try:
            if GROUP not in (distribution.read_text("entry_points.txt") or ""):  # most: there is nothing to parse
                continue
            points = [point for point in distribution.entry_points if point.group == GROUP]
            if not points:
                continue
            # A broken installation may lack the metadata that the types promise.
            about: Any = distribution
            name, version = str(about.name or "an unnamed distribution"), str(about.version or "")
            found: list[Entry] | str = [Entry(point.name, name, version, point.value) for point in points]
        except Exception as error:  # noqa: BLE001  of a damaged installation, anything; it is shown as its failure
            name = place
            found = f"{place} is damaged: its entry points cannot be read ({described(error)}). Install it anew."
        if name not in known:
            known.add(name)
            yield name, found


def _entry(name: str) -> Entry:
    known = claims()
    if name not in known:
        for entry in misnamed():
            if entry.name == name:
                raise PluginError(misnomer(entry))
        raise UsageError(f"There is no model {name!r}. {suggestion(name, known)} `mnistgen models` describes them.")
    if len(known[name]) > 1:
        raise PluginError(clash(known[name]))
    return known[name][0]


def clash(entries: list[Entry]) -> str:
    """The sentence about a name that several distributions claim."""
    owners = " and ".join(f"{entry.source} ({entry.value})" for entry in entries)
    return f"The model name {entries[0].name!r} is claimed by {owners}; uninstall all but one of them."


def _target(value: str) -> tuple[str, str]:
    module, _, attribute = value.partition("[")[0].partition(":")  # "package.module:Class [extra]"
    return module.strip(), attribute.strip()


# What follows reads source instead of importing it.


def _described(entry: Entry) -> Entry:
    module, name = _target(entry.value)
    definition = _definition(module, name)
    if definition is None:
        return entry
    node, home = definition
    summary = (ast.get_docstring(node) or "").partition("\n")[0].strip()
    return entry._replace(family=_family(node, home), description=summary)


def _family(node: ast.ClassDef, home: str, hops: int = 8) -> str:
    """The string that `family` is set to in a class, else in its bases of the same package."""
    for statement in node.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "family" for target in targets):
            value = getattr(statement, "value", None)
            return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""
    for base in node.bases if hops else []:
        found = _definition(home, base.id) if isinstance(base, ast.Name) else None
        if found is not None and found[1].partition(".")[0] == home.partition(".")[0]:
            family = _family(*found, hops - 1)
            if family:
                return family
    return ""


@lru_cache(maxsize=256)  # most models of a family have their bases in one file
def _parsed(path: Path, changed: int) -> ast.Module:  # noqa: ARG001  a file that has changed is another
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd escape in somebody's source is no concern of a listing
        return ast.parse(path.read_bytes())


def _definition(module: str, name: str, hops: int = 8) -> tuple[ast.ClassDef, str] | None:
    """The class statement that defines `name`, and its module, through `from ... import` of other modules."""
    path = _locate(module)
    if path is None:
        return None
    try:
        tree = _parsed(path, path.stat().st_mtime_ns)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):  # importing it would tell
        return None
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef) and statement.name == name:
            return statement, module
        if isinstance(statement, ast.ImportFrom) and hops:
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
                    parents = package.split(".")[: len(package.split(".")) + 1 - statement.level]
                    prefix = parents if statement.level else []
                    origin = ".".join([*prefix, statement.module] if statement.module else prefix)
                    return _definition(origin, alias.name, hops - 1)
    return None


def _locate(module: str) -> Path | None:
    """The source file of a module. Only its top-level package is looked up, since the import system would import
    the parents of anything deeper."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top) if top else None
    except (ImportError, ValueError):  # ValueError: a module in memory without a spec
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        path = Path(folder, *rest)
        for candidate in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if candidate.is_file():
                return candidate
    return None
