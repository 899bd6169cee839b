"""The figures of a study. Colours are told apart by colour-blind readers, too; markers and lines say the same again."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mnistgen.data import Dataset
from mnistgen.experiments.arms import ARMS
from mnistgen.experiments.results import Comparison, Outcome, Row
from mnistgen.files import atomic_file
from mnistgen.sampling import grid

# Okabe & Ito's palette.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":", "-.")
SHOWN = 6  # images of each class in a picture
LEAST, MOST = 0.002, 0.9998  # accuracies that a logit axis goes to
# Ticks of one: about evenly spaced there; and finer ones, where those are too few.
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)
FINE_SHARES = tuple(sorted({i / 100 for i in range(2, 98)} | {round(0.97 + i / 1000, 3) for i in range(30)}))
FEW_TICKS = 4
POINTS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)  # ticks of a logarithmic axis of differences


def style(row: Row, rows: Iterable[Row]) -> dict[str, Any]:
    """The colour of the arm, and the marker and line of the generator."""
    models = list(dict.fromkeys(r.model for r in rows if r.model))
    number = 1 + models.index(row.model) if row.model else 0
    again, colour = divmod(list(ARMS).index(row.arm), len(COLOURS))
    return {
        "color": COLOURS[colour],
        "marker": MARKERS[(number - again) % len(MARKERS)],  # where colours come again, markers count from the end
        "linestyle": LINES[number % len(LINES)],
    }


def draw_accuracies(outcomes: Sequence[Outcome], path: Path, about: Mapping[str, str], per_class_of_all: float) -> None:
    """Accuracy against images a class, with bands of the 95% interval: a row a classifier, a column a ratio.

    The accuracy is on a logit scale, so that 98.7 and 99.1% are told apart beside an arm at 70%.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    rows = [outcome.row for outcome in outcomes]
    classifiers = list(dict.fromkeys(row.classifier for row in rows))
    ratios: list[float] = sorted({row.ratio for row in rows if row.ratio}) or [0.0]
    figure = Figure(figsize=(1.0 + 5.0 * len(ratios), 1.8 + 3.6 * len(classifiers)), layout="constrained")
    panels = figure.subplots(len(classifiers), len(ratios), squeeze=False, sharey="row")
    handles: dict[str, Any] = {}
    for line, classifier in zip(panels, classifiers, strict=True):
        for axes, ratio in zip(line, ratios, strict=True):
            curves: dict[Row, list[tuple[float, Outcome]]] = {}
            for outcome in outcomes:
                row = outcome.row
                if row.classifier == classifier and row.ratio in (0.0, ratio):
                    place = float(row.per_class or per_class_of_all)
                    curves.setdefault(Row(classifier, None, row.arm, row.model, 0.0), []).append((place, outcome))
            for row, points in curves.items():
                points.sort(key=lambda point: point[0])
                x = [place for place, _ in points]
                found = [outcome.accuracy for _, outcome in points]
                drawn = axes.plot(x, [_inside(a.mean) for a in found], ms=4, lw=1.3, **style(row, rows))
                low, high = ([_inside(a.mean if end is None else end) for a, end in pairs] for pairs in _ends(found))
                axes.fill_between(x, low, high, color=style(row, rows)["color"], alpha=0.12, lw=0)
                if len(x) == 1:  # a band has no width there
                    axes.vlines(x, low, high, color=style(row, rows)["color"], lw=1)
                handles.setdefault(_short(row), drawn[0])
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticks(*_ticks(rows, per_class_of_all))
            axes.set_xlabel("real images a class")
            axes.set_title(f"{classifier}{f', {ratio:g} other images for a real one' if ratio else ''}", fontsize=9)
            axes.grid(alpha=0.3)
        means = [_logit(_inside(o.accuracy.mean)) for o in outcomes if o.row.classifier == classifier]
        margin = 0.08 * (max(means) - min(means)) + 0.1  # the bands of few repetitions would dwarf the curves
        bottom, top = (1 / (1 + math.exp(-end)) for end in (min(means) - margin, max(means) + margin))
        line[0].set_yscale("logit")
        line[0].set_ylim(bottom, top)
        line[0].yaxis.set_major_locator(FixedLocator(_shares(bottom, top)))
        line[0].yaxis.set_minor_locator(NullLocator())
        line[0].yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}"))
        line[0].set_ylabel("test accuracy, % (logit scale)")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", fontsize=7, ncols=3)
    figure.suptitle("Mean and 95% interval over the repetitions", fontsize=10)
    _save(figure, path, about)


def draw_differences(comparisons: Sequence[Comparison], against: str, path: Path, about: Mapping[str, str]) -> None:
    """The paired differences to one arm with their 95% intervals, one panel a classifier and size."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    shown = [c for c in comparisons if c.against == against]
    rows = [c.row for c in shown]
    places = list(dict.fromkeys((row.classifier, row.per_class) for row in rows))
    most = max(sum((r.classifier, r.per_class) == place for r in rows) for place in places)
    figure = Figure(figsize=(3.2 + 3.4 * len(places), 1.2 + 0.28 * most), layout="constrained")
    for axes, place in zip(figure.subplots(1, len(places), squeeze=False)[0], places, strict=True):
        here = [c for c in shown if (c.row.classifier, c.row.per_class) == place][::-1]
        for height, c in enumerate(here):
            interval = c.paired.interval
            axes.errorbar(
                100 * interval.mean,
                height,
                xerr=0 if math.isinf(interval.half) else 100 * interval.half,
                capsize=2.5,
                ms=4,
                **{**style(c.row, rows), "linestyle": "none"},
            )
        effect = 100 * here[0].effect
        axes.axvspan(-effect, effect, color="0.9", zorder=0, label="would not matter")
        axes.axvline(0, color="0.4", lw=0.8)
        if effect > 0:  # linear as far as twice that, then logarithmic: a ruined arm would hide all others
            ends = [100 * end for c in here for end in c.paired.interval[:3] if end is not None]
            low, high = 1.3 * min(-effect, *ends), 1.3 * max(effect, *ends)
            axes.set_xscale("symlog", linthresh=2 * effect, linscale=1.0)
            beyond = [points for points in POINTS if points > 2.4 * effect]
            ticks = [0.0, effect, -effect, *beyond, *(-points for points in beyond)]
            axes.set_xticks([tick for tick in ticks if low <= tick <= high])
            axes.set_xlim(low, high)
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda points, _: f"{points:+.2g}" if points else "0"))
        axes.set_yticks(range(len(here)), [_short(c.row) for c in here], fontsize=7)
        axes.set_ylim(-0.6, len(here) - 0.4)
        axes.set_xlabel("difference of accuracy, points", fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
        axes.set_title(f"{place[0]}, {place[1] or 'all'} a class", fontsize=9)
        axes.grid(axis="x", alpha=0.3)
    about_it = "mean paired difference, 95% interval; grey: too small to matter; logarithmic beyond twice that"
    title = f"Against {ARMS[against].title}: {about_it}"
    figure.suptitle(title if len(places) > 1 else title.replace(": ", "\n", 1), fontsize=9)
    _save(figure, path, about)


def draw_images(blocks: Mapping[str, Dataset], path: Path, about: Mapping[str, str]) -> None:
    """Real beside synthetic images: a block a source, a row a class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.9 * len(blocks), 3.5), layout="constrained")
    for axes, (title, data) in zip(figure.subplots(1, len(blocks), squeeze=False)[0], blocks.items(), strict=True):
        rows = []
        for label in range(data.num_classes):
            some = data.images[data.labels == label][:SHOWN].cpu()
            rows.append(torch.cat([some, torch.zeros(SHOWN - len(some), 1, 28, 28, dtype=torch.uint8)]))
        axes.imshow(grid(torch.cat(rows), SHOWN).numpy(), cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        axes.set_title(title, fontsize=8)
    _save(figure, path, about)


def draw_loop(curves: Mapping[str, Mapping[str, Sequence[float]]], path: Path, about: Mapping[str, str]) -> None:
    """Numbers of the generations of a loop: {panel: {curve: [generation 0, 1, ...]}}."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 3.8 * len(curves), 3.4), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for number, (name, values) in enumerate(lines.items()):
            axes.plot(
                range(len(values)),
                values,
                label=name,
                ms=4,
                lw=1.3,
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                linestyle=LINES[number // len(COLOURS) % len(LINES)],
            )
        axes.set_xlabel("generation", fontsize=8)
        axes.set_ylabel(title, fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    _save(figure, path, about)


def _ticks(rows: Iterable[Row], per_class_of_all: float) -> tuple[list[float], list[str]]:
    places = {float(row.per_class or per_class_of_all): row.size for row in rows}
    return sorted(places), [places[place] for place in sorted(places)]


def _ends(found: Sequence[Any]) -> tuple[list[tuple[Any, Any]], list[tuple[Any, Any]]]:
    return [(a, a.low) for a in found], [(a, a.high) for a in found]


def _inside(share: float) -> float:
    return min(max(share, LEAST), MOST)  # 0 and 1 are infinitely far away on a logit axis


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _shares(low: float, high: float) -> list[float]:
    """Ticks of a logit axis between two shares."""
    found = [share for share in SHARES if low <= share <= high]
    return found if len(found) >= FEW_TICKS else [share for share in FINE_SHARES if low <= share <= high]


def _short(row: Row) -> str:
    made = " ".join([*([row.model] if row.model else []), *([f"x{row.ratio:g}"] if row.ratio else [])])
    return f"{row.arm}{f' ({made})' if made else ''}"


def _save(figure: Any, path: Path, about: Mapping[str, str]) -> None:
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png", metadata=dict(about))
