"""What the commands' flags have in common; a command's flags are the fields of a frozen dataclass."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import tyro

Options = TypeVar("Options")
FLAGS = (tyro.conf.FlagCreatePairsOff,)  # --resume, and no --no-resume beside it


@dataclass(frozen=True, kw_only=True)
class Common:
    """The flags that every command has."""

    seed: int = 0
    """Seed of everything that is random."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps."""
    data_dir: Path | None = None
    """Folder of the datasets; otherwise $MNISTGEN_DATA, otherwise the user's cache folder."""


def parse(
    options: type[Options], arguments: list[str], *, prog: str, examples: str, default: Options | None = None
) -> Options:
    """Parse `arguments` into the dataclass `options`. `--help` and wrong flags end in SystemExit (0 and 2).

    `examples` are command lines, one a line, shown at the end of the help below the class's docstring.
    """
    summary = (options.__doc__ or "").strip()
    description = f"{summary}\n\nexamples:\n" + "\n".join(f"  {line.strip()}" for line in examples.strip().split("\n"))
    parsed: Options = tyro.cli(
        options, args=arguments, prog=prog, description=description, default=default, config=FLAGS
    )  # type: ignore[assignment]
    return parsed
