"""The errors a user can meet, each one a sentence that says what is wrong and what to do.

Every error that mnistgen raises on purpose derives from `MnistgenError`; the command line prints its text and
nothing else. Anything that reaches the user as a traceback is a bug.
"""

import difflib
from collections.abc import Iterable


class MnistgenError(Exception):
    """Something failed for a reason the user can act on. The command line exits with 1."""


class UsageError(MnistgenError):
    """The request itself is wrong: an unknown name, flags that contradict. The command line exits with 2."""


class DataError(MnistgenError):
    """A dataset cannot be read, or is not what it says it is. The text names the file and the place."""


class DownloadError(DataError):
    """A named dataset is not on disk, and could not be fetched."""


class CheckpointError(MnistgenError):
    """A checkpoint cannot be read, written, found or resumed."""


class DamagedRunError(CheckpointError):
    """The state of a run is not what it should be, so that the run cannot be resumed."""


class CheckpointNotFoundError(CheckpointError, UsageError):
    """No checkpoint has the name or path that was given."""


class PluginError(MnistgenError):
    """A plugin cannot be imported, or claims a name that another distribution has."""


class ContractError(MnistgenError):
    """A model breaks the plugin contract (see `mnistgen.testing.check_model`)."""


class TrainingError(MnistgenError):
    """Training cannot go on, for example because a loss is not finite."""


class LeakageError(ContractError):
    """A generator was about to be trained, or was trained, on images that its condition of a study excludes."""


def described(error: BaseException) -> str:
    """The kind and the text of an error, in one line; also of one whose own text cannot be made."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001  a __str__ may raise anything
        text = "its text cannot be printed"
    kind = type(error).__name__
    return f"{kind}: {text[:500]}{'...' if len(text) > 500 else ''}" if text else kind


def suggestion(name: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest known name, or lists what there is; to end an error with."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {near[0]!r}?"
    if not names:
        return "There are none yet."
    shown = ", ".join(names[:20])
    return f"There is {shown}{', ...' if len(names) > 20 else ''}."


def shortened(text: str, length: int = 60) -> str:
    """The text, or its beginning and `...` where it is longer than that."""
    return text if len(text) <= length else f"{text[: length - 3]}..."
