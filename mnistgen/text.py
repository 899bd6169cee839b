"""Text that is shown: that of others without control characters, any text in any encoding, and what a class says it
is."""

import ast
import codecs
import inspect
import io
import os
import re
import sys
import textwrap
import unicodedata
from pathlib import Path
from typing import IO, Any

# Control characters but tab and newline, what turns the direction of writing, line separators, halves of characters.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN = {"▀": "#", "█": "#", "±": "+-", "\N{EN DASH}": "-", "\N{EM DASH}": "-", "\N{MULTIPLICATION SIGN}": "x"}
_ERRORS = "mnistgen.plain"


def printable(text: str) -> str:
    """`text` that came from elsewhere - a file's name or metadata, a server, a plugin - for a terminal.

    What would move the cursor, change colours or hide text is shown as its escape: `\\x1b[2J`.
    """
    return _UNSAFE.sub(lambda match: repr(match[0])[1:-1], text)


def say(text: str, file: IO[str] | None = None) -> None:
    """Print a line that may hold text of others; at once, since a command may take long."""
    print(printable(text), file=file or sys.stdout, flush=True)


def rendered(package: str, template: str, **values: Any) -> str:
    """A template in the folder `templates` of a package, filled in; what goes into HTML is escaped."""
    import jinja2  # takes long

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=template.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def docstring(cls: type) -> str:
    """The docstring of a class; from its source where `python -OO` has removed it. Empty where there is none."""
    text = cls.__doc__ or ""
    if text and not text.startswith(f"{cls.__name__}("):  # which is what a dataclass without a docstring is given
        return inspect.cleandoc(text)
    try:
        (statement,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return ""
    return ast.get_docstring(statement) or "" if isinstance(statement, ast.ClassDef) else ""


def show_plainly() -> None:
    """Make standard output and error show what their encoding lacks by plain characters, and never fail.

    Where one is closed, which Python gives as None, what is printed there is lost.
    """
    codecs.register_error(_ERRORS, _plain)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain_character, error.object[error.start : error.end])), error.end


def _plain_character(character: str) -> str:
    if _UNSAFE.match(character):
        return printable(character)
    ascii_part = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return _PLAIN.get(character) or ascii_part or "?"
