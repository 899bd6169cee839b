"""The score of a source, its rank among others, and their uncertainty."""

import json
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mnistgen.files import atomic_file
from mnistgen.metrics import Replicates
from mnistgen.mosaic import by_class, grid
from mnistgen.scoring.evaluators import PENULTIMATE
from mnistgen.scoring.scale import FLOOR

FID = f"fid.{PENULTIMATE}"
JUDGES = ("A", "B")  # the evaluators that sources are ranked by


@dataclass(eq=False)
class Score:
    """The score of a source. `numbers` are by name, as in `measure`; `scale` has the same names for each of its
    rows."""

    name: str
    numbers: dict[str, float]
    scale: dict[str, dict[str, Any]]  # row -> {"mean": numbers, "spread": numbers, "draws": int}
    protocol: dict[str, Any]
    details: dict[str, Any]  # what stands behind the numbers: per class, tables, intervals
    seconds: dict[str, float]  # by part
    not_measured: dict[str, str]  # what could not be measured, and why
    notes: list[str]  # what a reader should know
    images: Tensor = field(repr=False)  # (n, 1, 28, 28) uint8, what was scored
    labels: Tensor | None = field(repr=False)
    strip: Tensor | None = field(repr=False)  # see `measure_memorisation`
    replicates: dict[str, Replicates] = field(default_factory=dict, repr=False)  # of distances, by name
    class_names: tuple[str, ...] = ()  # of the reference, one for each class, or none

    def class_name(self, label: int) -> str:
        """The name of a class, or its number where the classes have no names."""
        return self.class_names[label] if label < len(self.class_names) else str(label)

    @property
    def fid(self) -> float:
        """FID in evaluator A's penultimate features."""
        return self.numbers[FID]

    @property
    def floors(self) -> float | None:
        """The headline: the larger of the multiples of the floor under evaluators A and B; None without a floor.

        A model may have been chosen or stopped by either, which flatters it in that one's eyes. A alone counts where
        there is no B, as the protocol then says.
        """
        return max(self.floors_by.values(), default=None)

    @property
    def floors_by(self) -> dict[str, float]:
        """FID in the penultimate features of A and of B, each as a multiple of its floor; empty without a floor."""
        found = {network: self.times_floor(f"fid.{network}.penultimate") for network in JUDGES}
        return {network: times for network, times in found.items() if times is not None}

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of the headline for other samples and other real images; the floor is taken as it is."""
        replicates = self.headline_replicates
        return None if replicates is None or self.floors is None else replicates.interval(self.floors)

    @property
    def headline_replicates(self) -> Replicates | None:
        """The bootstrap of the headline, in floors: of the evaluator that it is by. None without floor or bootstrap."""
        if not self.floors_by:
            return None
        network = max(self.floors_by, key=lambda name: self.floors_by[name])
        name = f"fid.{network}.penultimate"
        found = self.replicates.get(name)
        return found and found * (1 / self.scale[FLOOR]["mean"][name])

    def times_floor(self, name: str) -> float | None:
        """A distance as a multiple of what real images get."""
        floors = self.scale.get(FLOOR, {}).get("mean", {})
        value, best = self.numbers.get(name), floors.get(name.removeprefix("reweighted_"))
        return value / best if value is not None and best is not None and best > 0 else None

    @property
    def protocol_line(self) -> str:
        """Everything that two numbers must share to be compared, in one line."""
        p = self.protocol
        evaluators = " ".join(f"{name} {digest}" for name, digest in p["evaluators"].items())
        versions = ", ".join(f"{name} {version}" for name, version in p["versions"].items())
        options = ", ".join(f"{name} {value}" for name, value in p.get("sampling", {}).items())
        source = f"sampling {options}; " if options else ""
        if "images_hash" in p:
            source = f"images {p['images_hash']}; "
        return (
            f"evaluators {evaluators}; layers {', '.join(p['layers'])}; n {p['n']} (class counts: {p['class_counts']}) "
            f"against {p['reference_n']} of {p['reference']} ({p['reference_hash']}, features "
            f"{p['reference_features']}); scale {p['scale']}; seed {p['seed']}; {source}{versions}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers and text, for JSON."""
        return {
            "name": self.name,
            "headline": {"floors": self.floors, "by": self.floors_by, "interval_95": self.interval},
            "protocol": self.protocol,
            "numbers": self.numbers,
            "times_floor": {name: self.times_floor(name) for name in self.numbers if _is_distance(name)},
            "scale": self.scale,
            "class_names": list(self.class_names),
            "details": self.details,
            "not_measured": self.not_measured,
            "notes": self.notes,
            "seconds": {part: round(seconds, 3) for part, seconds in self.seconds.items()},
        }

    def picture(self, rows: int = 10, columns: int = 10) -> Tensor:
        """A grid of what was scored: one row per class where there are labels, else as they come. (H, W) uint8."""
        if self.labels is None:
            return grid(self.images[: rows * columns], columns)
        return by_class(self.images, self.labels, rows=rows, columns=columns)

    def _repr_html_(self) -> str:
        """The numbers beside those of real and of noisy images, for notebooks."""
        interval = "" if self.interval is None else " ({:.1f} to {:.1f})".format(*self.interval)
        headline = "" if self.floors is None else f": {self.floors:.1f}{interval} times the floor"
        scale = [(row, self.scale[row]["mean"]) for row in self.scale]
        head = "".join(f"<th>{escape(title)}</th>" for title in ("", self.name, *(row for row, _ in scale)))
        lines = [
            f"<tr><td>{escape(name)}</td><td>{value:.4g}</td>"
            + "".join(f"<td>{mean[name]:.4g}</td>" if name in mean else "<td></td>" for _, mean in scale)
            + "</tr>"
            for name, value in self.numbers.items()
        ]
        return (
            f"<p><b>{escape(self.name)}</b>{headline}</p><table><tr>{head}</tr>{''.join(lines)}</table>"
            f"<p><small>{escape(self.protocol_line)}</small></p>"
        )


class Difference(NamedTuple):
    """The difference between the headlines of two sources, in floors."""

    floors: float
    interval: tuple[float, float]  # 95%

    @property
    def distinguishable(self) -> bool:
        """Whether the interval leaves out 0."""
        low, high = self.interval
        return not low <= 0 <= high


def difference(better: Score, worse: Score) -> Difference | None:
    """The paired difference of two headlines: replicates of both have the same real images drawn again.

    None where there is no floor or no bootstrap, or the two do not stand against the same images in equal numbers.
    """
    same = ("evaluators", "n", "reference", "reference_hash", "reference_n")
    if any(better.protocol.get(key) != worse.protocol.get(key) for key in same):
        return None
    one, other = better.headline_replicates, worse.headline_replicates
    if one is None or other is None or better.floors is None or worse.floors is None:
        return None
    floors = worse.floors - better.floors
    return Difference(floors, (other - one).interval(floors))


def write_json(path: Path, scores: list[Score]) -> None:
    """Write everything of several scores, best first."""
    with atomic_file(path) as temporary:
        temporary.write_text(to_json(scores), "utf-8")


def to_json(scores: list[Score]) -> str:
    """Everything of several scores, best first, each with what sets it apart from the next one."""
    best_first = ranked(scores)
    found = [score.to_dict() for score in best_first]
    for about, score, following in zip(found, best_first, best_first[1:], strict=False):
        apart = difference(score, following)
        if apart is not None:
            about["next"] = {
                "name": following.name,
                "floors_more": apart.floors,
                "interval_95": apart.interval,
                "distinguishable": apart.distinguishable,
            }
    return json.dumps(found, indent=2) + "\n"


def ranked(scores: list[Score]) -> list[Score]:
    """Best first, by the headline (see `Score.floors`); by FID under A where one of them has no floor."""
    floors = {id(score): score.floors for score in scores}
    if None in floors.values():
        return sorted(scores, key=lambda score: score.fid)
    return sorted(scores, key=lambda score: floors[id(score)] or 0.0)


def _is_distance(name: str) -> bool:
    return name.split(".")[0] in ("fid", "reweighted_fid", "relative_fid", "class_fid")
