"""The flags that commands have in common; a command's flags are the fields of a frozen dataclass."""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, get_args

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructTypeInfo,
)

from mnistgen.errors import UsageError
from mnistgen.limits import checked_seed
from mnistgen.text import docstring, say

if TYPE_CHECKING:
    from mnistgen.data.convert import ConversionKeywords

Options = TypeVar("Options")
FLAGS = (tyro.conf.FlagCreatePairsOff,)  # --resume, and no --no-resume beside it


@dataclass(frozen=True, kw_only=True)
class Common:
    """The flags that every command has."""

    standard_output: ClassVar[tuple[str, ...]] = ()  # the flags for which `-` means standard output
    former: ClassVar[dict[str, str]] = {}  # fields that had another name in the last version: former -> present

    seed: int = 0
    """Seed of everything that is random, from 0 to 9223372036854775807."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps."""
    data_dir: Path | None = None
    """Folder of the datasets; otherwise $MNISTGEN_DATA, otherwise the user's cache folder."""

    plugin: Path | None = None
    """A Python file with a model of your own, known by the file's name: --plugin ./mymodel.py"""

    def __post_init__(self) -> None:
        checked_seed(self.seed, "--seed")


@dataclass(frozen=True, kw_only=True)
class Reading(Common):
    """The flags of the commands that read images: what is done to those that are not in MNIST's format."""

    resize: bool = False
    """Convert images of another size to 28x28, instead of refusing them."""
    invert: bool = False
    """Exchange black and white, for dark digits on a bright ground."""
    stretch: bool = False
    """Map the lowest value to black and the highest to white, for values in no known range."""
    photographs: bool = False
    """Take pictures as photographs of ink on paper: crop to the ink, fit it into 20x20, centre it in 28x28."""
    binarise: Literal["static", "threshold"] | None = None
    """Black and white alone: static: each pixel white with the probability of its grey, drawn once by a fixed seed of
    ours; threshold: white above 127."""

    @property
    def how(self) -> "ConversionKeywords":
        """The flags as keywords of `load_data`."""
        return {
            "resize": self.resize,
            "invert": self.invert,
            "stretch": self.stretch,
            "photographs": self.photographs,
            "binarise": self.binarise,
        }


def parse(
    options: type[Options],
    arguments: list[str],
    *,
    prog: str,
    examples: str,
    default: Options | None = None,
    former: Mapping[str, str] | None = None,
) -> Options:
    """Parse `arguments` into the dataclass `options`. `--help` and wrong flags end in SystemExit (0 and 2).

    `examples` are command lines, one per line, shown at the end of the help below the class's docstring. `former` are
    fields that had another name in the last version, over those that `options` knows of itself.
    """
    arguments = _renamed(arguments, {**getattr(options, "former", {}), **(former or {})})
    summary = docstring(options)
    description = f"{summary}\n\nexamples:\n" + "\n".join(f"  {line.strip()}" for line in examples.strip().split("\n"))
    parsed: Options = tyro.cli(
        options,
        args=arguments,
        prog=prog,
        description=description,
        default=default,
        config=FLAGS,
        registry=_registry(),
    )  # type: ignore[assignment]
    _refuse_dash(parsed)
    return parsed


def _renamed(arguments: list[str], former: Mapping[str, str]) -> list[str]:
    """The arguments with the present names of flags; who gives a former one is told."""
    renamed = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and name in former:
            present = f"--{former[name].replace('_', '-')}"
            say(f"note: {flag} is called {present} now; the former name will go.", sys.stderr)
            argument = present + equals + value
        renamed.append(argument)
    return renamed


def _refuse_dash(options: Any) -> None:
    """Raise `UsageError` where a path is `-`, and what is to be written there cannot go to standard output."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            _refuse_dash(value)
        elif value == Path("-") and field.name not in getattr(options, "standard_output", ()):
            raise UsageError(
                f"--{field.name.replace('_', '-')} -: this is not written to standard output; give a path. "
                "`sample --count` and `data export` write to it."
            )


def _registry() -> ConstructorRegistry:
    """A registry that does what tyro does, but for None: it is no word that a flag takes, and no default that the help
    shows."""
    registry = ConstructorRegistry()
    asked: list[StructTypeInfo] = []

    @registry.primitive_rule
    def optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        kinds = [kind for kind in get_args(info.type) if kind is not NoneType]
        if len(kinds) != 1 or len(get_args(info.type)) != 2:
            return None
        spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kinds[0], info.markers))
        if not isinstance(spec, PrimitiveConstructorSpec):
            return None
        return dataclasses.replace(
            spec,
            is_instance=lambda value: value is None or spec.is_instance(value),
            str_from_instance=lambda value: [] if value is None else spec.str_from_instance(value),
        )

    @registry.struct_rule
    def with_defaults(info: StructTypeInfo) -> StructConstructorSpec | None:
        if not dataclasses.is_dataclass(info.type) or asked:
            return None
        asked.append(info)  # the rules below this one answer
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            asked.clear()
        if not isinstance(spec, StructConstructorSpec):
            return None
        fields = (dataclasses.replace(field, type=_with_default(field.type)) for field in spec.fields)
        return dataclasses.replace(spec, fields=tuple(fields))

    return registry


def _with_default(kind: Any) -> Any:
    """A field's type, with what the help says of its default: nothing, where that is nothing."""
    configured = any(hasattr(item, "help_behavior_hint") for item in getattr(kind, "__metadata__", ()))
    if configured or dataclasses.is_dataclass(kind):
        return kind
    return Annotated[kind, tyro.conf.arg(help_behavior_hint=_default)]


def _default(value: str) -> str:
    return "" if value in ("", "''", "None", "False") else f"(default: {value})"
