"""Checksums: a file in which a single bit has flipped is refused, never believed.

What mnistgen writes carries its SHA-256 in itself: safetensors files in their metadata, anything else in a line before
the content. Files that ship without one are listed in `weights/SHA256SUMS`. A file that has neither, such as a
checkpoint of an earlier version, is taken as it is.
"""

import hashlib
import json
import re
import struct
import sys
from functools import cache
from pathlib import Path
from typing import Any

_KEY = "checksum"
_BLANK = b"0" * 64  # stands in the checksum's place while it is computed
_PACKAGE = Path(__file__).resolve().parent
_LIST = _PACKAGE / "weights" / "SHA256SUMS"  # in the format of sha256sum, of paths in the package
_LINE = b"mnistgen sha256 %s\n"
UNCHECKED: dict[str, str] = {_KEY: _BLANK.decode()}  # metadata of a safetensors file that is to be sealed


class DamagedError(ValueError):
    """A file is not what was written, or not what ships. The text says what is wrong, after the file's name."""


def seal(content: bytes) -> bytes:
    """A safetensors file, written with `UNCHECKED` among its metadata, with its checksum in that place."""
    place = b'"%s":"%s"' % (_KEY.encode(), _BLANK)
    return content.replace(place, place.replace(_BLANK, hashlib.sha256(content).hexdigest().encode()), 1)


def read(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The content of a safetensors file, and its header: for each tensor, and for "__metadata__".

    Raises `DamagedError` where its checksum is not that of its content, and `OSError`.
    """
    content = path.read_bytes()
    text, header = _header(content)
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict):
        raise DamagedError("its header makes no sense")
    # One flipped bit can damage the checksum or its name, never both.
    if _KEY in metadata or any(re.fullmatch("[0-9a-f]{64}", str(value)) for value in metadata.values()):
        found = str(metadata.get(_KEY))
        digest = hashlib.sha256(content[:8] + text.replace(found.encode(), _BLANK))
        digest.update(memoryview(content)[8 + len(text) :])
        if digest.hexdigest() != found:
            raise DamagedError("its content does not have the checksum that was written into it")
    else:
        check_shipped(path, content)
    return content, header


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, without its content, so that no checksum is computed. Raises as `read`."""
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        return _header(start + file.read(min(length, path.stat().st_size)))[1]


def write_line(content: bytes) -> bytes:
    """Any content behind a line with its checksum."""
    return _LINE % hashlib.sha256(content).hexdigest().encode() + content


def read_line(content: bytes, *, former: bytes) -> bytes:
    """Read what `write_line` was given; content that begins with `former` was written before there were checksums.

    Raises `DamagedError`.
    """
    if content.startswith(former):
        return content
    line, _, rest = content.partition(b"\n")
    if line + b"\n" != _LINE % hashlib.sha256(rest).hexdigest().encode():
        raise DamagedError("its content does not have the checksum that was written into it")
    return rest


def check_shipped(path: Path, content: bytes) -> None:
    """Raise `DamagedError` where a file that ships with mnistgen is not as it shipped."""
    name = f"{path.parent.name}/{path.name}"
    here = path.resolve().parent
    ships = name in _shipped() and here.parent in (_PACKAGE, _PACKAGE.parent)  # in a wheel, or in a clone
    if ships and hashlib.sha256(content).hexdigest() != _shipped()[name]:
        raise DamagedError("it is not the file that ships with mnistgen")


@cache
def _shipped() -> dict[str, str]:
    lines = _LIST.read_text("ascii").splitlines()
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}


def _header(content: bytes) -> tuple[bytes, dict[str, Any]]:
    length = struct.unpack("<Q", content[:8])[0] if len(content) > 8 else 0
    if not 0 < length <= len(content) - 8:
        raise DamagedError("it is no safetensors file, or is cut short")
    text = content[8 : 8 + length]
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"its header cannot be read: {error}") from error
    if not isinstance(header, dict):
        raise DamagedError("its header makes no sense")
    return text, header


def _rewrite(added: list[str]) -> None:
    """Put the checksums of the files that are here now into the list, and of those that are `added` to it: for whoever
    ships new ones, from a clone."""
    lines = []
    for name in [*_shipped(), *sorted({*added} - {*_shipped()})]:
        file = next(folder / name for folder in (_PACKAGE, _PACKAGE.parent) if (folder / name).is_file())
        lines.append(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {name}\n")
    _LIST.write_text("".join(lines), "ascii")


if __name__ == "__main__":
    _rewrite(sys.argv[1:])
