"""Figures of what was trained."""

import json
import math
from pathlib import Path
from typing import Any

from mnistgen.errors import MnistgenError
from mnistgen.files import atomic_file

LOOKS = {"label_agreement": "label agreement", "coverage": "coverage (by the auditor)"}  # in [0, 1]


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a training log, one a line; a last line cut short by a kill is left out."""
    records: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == 1 + len(records) and not line.endswith("}"):
                break
            raise MnistgenError(f"{path}, line {number}: is not JSON: {error}.") from error
        records.append(record)
    return records


def curves(log: Path, path: Path, title: str) -> None:
    """Draw every quantity of a training log against steps into a PNG, the validation loss over its own loss.

    What was seen of the samples on the way has panels where the log has it.
    """
    from matplotlib.figure import Figure

    records = read_log(log)
    for record in records:  # what was not finite has no place on an axis
        record["losses"] = {name: math.nan if x is None else x for name, x in record["losses"].items()}
    names = list(dict.fromkeys(name for record in records for name in record["losses"]))
    looks = {
        title: [(r["step"], r["watch"][key]) for r in records if r.get("watch") and r["watch"][key] is not None]
        for key, title in LOOKS.items()
    }
    panels = [*names, *(title for title, points in looks.items() if points), "learning rate"]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.8 * rows), layout="constrained")
    for axes, name in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=False):
        if name == "learning rate":
            axes.plot([r["step"] for r in records], [r["lr"] for r in records], color="0.3")
            axes.set_title("learning rate (share of the peak)", fontsize=9)
        elif name in looks:
            axes.plot(*zip(*looks[name], strict=True), marker=".", lw=1)
            axes.set_ylim(-0.02, 1.02)
            axes.set_title(name, fontsize=9)
        else:
            seen = [r for r in records if name in r["losses"]]
            axes.plot([r["step"] for r in seen], [r["losses"][name] for r in seen], label="training", lw=1)
            axes.set_title(name, fontsize=9)
            held_out = [r for r in records if r.get("validation") is not None]
            if name == "loss" and held_out:
                axes.plot(
                    [r["step"] for r in held_out], [r["validation"] for r in held_out], label="validation", lw=1.5
                )
                axes.legend(fontsize=8)
            _skip_the_start(axes, [r["losses"][name] for r in seen])
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    for axes in figure.axes[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(title, fontsize=10)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _skip_the_start(axes: Any, values: list[float]) -> None:
    """Scale the axis to all but the first values, whose fall would hide the rest of the curve."""
    rest = [value for value in values[max(1, len(values) // 20) :] if math.isfinite(value)]
    if len(rest) > 10 and max(rest) > min(rest):
        margin = 0.05 * (max(rest) - min(rest))
        axes.set_ylim(min(rest) - margin, max(rest) + margin)
