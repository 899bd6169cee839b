"""What a model's sampler can be told: its options with their defaults and help, and the classes that a text names."""

import inspect
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import docstring_parser

from mnistgen.errors import UsageError, shortened
from mnistgen.model import GenerativeModel
from mnistgen.sampling.sampler import known_classes


class SamplingOption(NamedTuple):
    """A keyword-only parameter of a model's `sample`."""

    name: str
    kind: Any  # its annotation: int, float, bool, str or a Literal
    default: Any
    help: str


def sampling_options(cls: type[GenerativeModel]) -> tuple[SamplingOption, ...]:
    """The options that `sample` of a model has, in its order."""
    words = option_help(cls)
    return tuple(
        SamplingOption(p.name, p.annotation, p.default, words.get(p.name, ""))
        for p in inspect.signature(cls.sample, eval_str=True).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
    )


def option_help(cls: type[GenerativeModel]) -> dict[str, str]:
    """Read what the docstring of `sample` says of each option ("Args:" and the like); a subclass need not repeat it."""
    words: dict[str, str] = {}
    for base in cls.__mro__:
        text = getattr(vars(base).get("sample"), "__doc__", None)
        for parameter in docstring_parser.parse(inspect.cleandoc(text)).params if text else ():
            words.setdefault(parameter.arg_name, " ".join((parameter.description or "").split()))
    return words


def digits_of(text: str, model: GenerativeModel, flag: str = "--digits") -> tuple[list[int], bool]:
    """The classes that `flag` names, by numbers or names, and whether they are to stand in one row.

    By default those that the model knows; one that was trained without labels is told 0 of each image, and its pictures
    have ten rows, or columns.
    """
    text, k = text.strip(), model.num_classes
    if not text:
        return list(model.trained_classes) or [0] * 10, False
    if not model.trained_classes:
        raise UsageError(f"{flag}: this model was trained without labels, so there are no classes to choose from.")
    digits, in_a_row = _by_name(text, model.class_names), False
    if digits:
        pass
    elif match := re.fullmatch(r"(\d{1,9})-(\d{1,9})", text):
        first, last = map(int, match.groups())
        digits = list(range(first, min(last, k) + 1))  # one too many is told below
    elif re.fullmatch(r"\d{1,9}(,\d{1,9})+", text):
        digits = [int(part) for part in text.split(",")]
    elif text.isascii() and text.isdecimal():
        # One class of a model with more than ten, or digits run together.
        single = len(text) < 10 and int(text) < k and str(int(text)) == text
        digits, in_a_row = ([int(text)], False) if single else ([int(digit) for digit in text], True)
    if not digits or not set(digits) <= set(model.trained_classes):
        raise UsageError(
            f"{flag} {shortened(text)!r} names no classes of this model: {known_classes(model)} Write a range "
            f"(0-{k - 1}), a list (0,3,8), digits run together (2026), or names where there are any (three,eight)."
        )
    return digits, in_a_row


def _by_name(text: str, class_names: Sequence[str]) -> list[int]:
    """The classes of these names, divided by commas; none where one of them is no name."""
    numbers = {name.lower(): label for label, name in enumerate(class_names)}
    numbers |= {name: label for label, name in enumerate(class_names)}  # a and A may be two classes
    parts = [text] if text in numbers else [part.strip() for part in text.split(",")]
    found = [numbers.get(part, numbers.get(part.lower(), -1)) for part in parts]
    return [] if -1 in found else found
