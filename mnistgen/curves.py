"""Figures of what was trained."""

import json
import math
from pathlib import Path
from typing import Any

from mnistgen.errors import MnistgenError
from mnistgen.files import atomic_file

LOG = "log.jsonl"  # of a training, in its folder
CHECKS = {"label_agreement": "label agreement", "coverage": "coverage (by the second evaluator)"}  # in [0, 1]
RATE = "learning rate"
MONITOR = ("monitor", "watch")  # the key of the checks in a record, now and in earlier versions
FEW = 20  # points of a line that are marked one by one


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a training log, one per line. What is no record, such as a line cut short by a kill, is left
    out."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise MnistgenError(f"{path}: cannot be read: {error.strerror or error}.") from error
    records = (_parsed(line) for line in lines)
    return [record for record in records if _is_record(record)]


def checked(record: dict[str, Any]) -> Any:
    """The monitor's check of the samples in the step of a record; None where it has not looked."""
    return next((record[key] for key in MONITOR if key in record), None)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_record(value: Any) -> bool:
    """Whether it has what every record of a log has, in the right types."""
    if not isinstance(value, dict) or not isinstance(value.get("step"), int) or not _is_number(value.get("lr")):
        return False
    losses, monitor = value.get("losses"), checked(value)
    if not isinstance(losses, dict) or not all(_is_number(x, none=True) for x in losses.values()):
        return False
    if monitor is not None and not (
        isinstance(monitor, dict) and all(_is_number(monitor.get(k), none=True) for k in CHECKS)
    ):
        return False
    return _is_number(value.get("validation"), none=True)


def _is_number(value: Any, *, none: bool = False) -> bool:
    return (none and value is None) or (isinstance(value, int | float) and not isinstance(value, bool))


def curves(log: Path, path: Path, title: str) -> None:
    """Draw every quantity of a training log against steps into a PNG, the validation loss over the loss of that name.

    The checks of the samples have panels where the log has them; what was never finite has none.
    """
    from matplotlib.figure import Figure

    shown = panels(read_log(log))
    columns = max(1, min(3, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(4.2 * columns, 2.8 * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (name, lines) in zip(places, shown.items(), strict=False):
        for label, points in lines.items():
            # A line through one point shows nothing, and one through a few does not show how few.
            axes.plot(*zip(*points, strict=True), label=label, lw=1, marker="." if len(points) <= FEW else "")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if len(lines) > 1:  # above the axes, where it hides nothing
            place = {"loc": "lower right", "bbox_to_anchor": (1, 0.98), "ncols": len(lines), "handlelength": 1}
            axes.legend(fontsize=7, frameon=False, columnspacing=1, **place)
        if name in CHECKS.values():
            axes.set_ylim(-0.02, 1.02)
        elif name != RATE:
            _skip_the_start(axes, list(lines.values()))
    for axes in figure.axes[len(shown) :]:
        axes.set_visible(False)
    figure.suptitle(title, fontsize=10)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def panels(records: list[dict[str, Any]]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """The lines of each panel by its title, and of each line by its label: points (step, value), all finite."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}

    def add(panel: str, label: str, step: int, value: float | None) -> None:
        if value is not None and math.isfinite(value):
            found.setdefault(panel, {}).setdefault(label, []).append((step, value))

    for record in records:
        for name, value in record["losses"].items():
            add(name, "training", record["step"], value)
    held_out = "loss" if "loss" in found else "validation loss"
    for record in records:
        add(held_out, "validation", record["step"], record.get("validation"))
    for key, panel in CHECKS.items():
        for record in records:
            add(panel, "samples", record["step"], (checked(record) or {}).get(key))
    for record in records:
        add(RATE, "rate", record["step"], record["lr"])
    return found


def _skip_the_start(axes: Any, lines: list[list[tuple[int, float]]]) -> None:
    """Scale the axis to all but the first values of each line, whose fall would hide the rest of the curve."""
    rest = [value for points in lines for _, value in points[min(len(points) - 1, max(1, len(points) // 20)) :]]
    if len(rest) > 10 and max(rest) > min(rest):
        margin = 0.05 * (max(rest) - min(rest))
        axes.set_ylim(min(rest) - margin, max(rest) + margin)
