"""The configuration of a model: what it refuses, and what it says."""

import math
from dataclasses import dataclass

import pytest

from mnistgen import BaseConfig, UsageError


@dataclass(frozen=True)
class Bounded(BaseConfig):
    width: int = 2
    share: float = 0.5
    levels: tuple[int, ...] = (2, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("width", "levels", least=2)
        self.require("share", above=0, below=1)


@pytest.mark.parametrize(
    "value", [{"width": 2}, {"share": 1e-9}, {"share": 1 - 1e-9}, {"levels": (2, 2)}, {"lr": 1e-9}]
)
def test_values_within_their_bounds_are_taken(value: dict[str, object]) -> None:
    Bounded(**value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"width": 1}, "width is 1; it must be at least 2"),
        ({"share": 0.0}, "share is 0.0; it must be above 0"),
        ({"share": 1.0}, "share is 1.0; it must be below 1"),
        ({"levels": (3, 1)}, r"levels is \(3, 1\); it must be at least 2"),
        ({"lr": 0.0}, "lr is 0.0; it must be above 0"),
        ({"lr": math.nan}, "lr is nan; it must be finite"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0; it must be at least 0"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0; it must be below 1"),
        ({"weight_decay": math.inf}, "weight_decay is inf; it must be finite"),
    ],
)
def test_values_out_of_bounds_are_named(value: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Bounded(**value)  # type: ignore[arg-type]
