"""The figures of a study. Colours are told apart by colour-blind readers, too; markers and lines say the same again."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scipy import special

from mnistgen.data import Dataset
from mnistgen.experiments.analysis import Comparison, Outcome, Row
from mnistgen.experiments.protocol import CONDITIONS
from mnistgen.sampling import grid

# Okabe & Ito's palette.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999")
MARKERS, LINES = ("o", "s", "^", "D", "v", "P", "X"), ("-", "--", ":", "-.")
SHOWN = 6  # images of each class in a picture
LEAST, MOST = 0.002, 0.9998  # accuracies that a logit axis goes to
# Ticks of one: about evenly spaced there; and finer ones, where those are too few.
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)
FINE_SHARES = tuple(sorted({i / 100 for i in range(2, 98)} | {round(0.97 + i / 1000, 3) for i in range(30)}))
FEW_TICKS = 4
POINTS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)  # ticks of a logarithmic axis of differences


def style(row: Row, rows: Iterable[Row]) -> dict[str, Any]:
    """The colour of the condition, and the marker and line of the generator."""
    models = list(dict.fromkeys(r.model for r in rows if r.model))
    number = 1 + models.index(row.model) if row.model else 0
    again, colour = divmod(list(CONDITIONS).index(row.condition), len(COLOURS))
    # Where colours come again, markers count from the end.
    marker, line = MARKERS[(number - again) % len(MARKERS)], LINES[number % len(LINES)]
    return {"color": COLOURS[colour], "marker": marker, "linestyle": line, "ms": 4}


def draw_accuracies(outcomes: Sequence[Outcome], per_class_of_all: float) -> Figure:
    """Accuracy against images per class, with bands of the 95% interval: a row a classifier, a column a ratio.

    The accuracy is on a logit scale, so that 98.7 and 99.1% are told apart beside a condition at 70%.
    """
    rows = [outcome.row for outcome in outcomes]
    classifiers = list(dict.fromkeys(row.classifier for row in rows))
    ratios: list[float] = sorted({row.ratio for row in rows if row.ratio}) or [0.0]
    sizes = {float(row.per_class or per_class_of_all): row.size for row in rows}
    figure = Figure(figsize=(1.0 + 5.0 * len(ratios), 1.8 + 3.6 * len(classifiers)), layout="constrained")
    panels = figure.subplots(len(classifiers), len(ratios), squeeze=False, sharey="row")
    handles: dict[str, Any] = {}
    for line, classifier in zip(panels, classifiers, strict=True):
        here = [outcome for outcome in outcomes if outcome.row.classifier == classifier]
        for axes, ratio in zip(line, ratios, strict=True):
            curves: dict[Row, list[tuple[float, float, float, float]]] = {}
            for outcome in here:
                row, found = outcome.row, outcome.accuracy
                if row.ratio in (0.0, ratio):
                    ends = [found.mean if end is None else end for end in found[:3]]
                    curve = curves.setdefault(Row(classifier, None, row.condition, row.model, 0.0), [])
                    curve.append((float(row.per_class or per_class_of_all), *np.clip(ends, LEAST, MOST).tolist()))
            for row, points in curves.items():
                look = style(row, rows)
                x, means, low, high = (list(column) for column in zip(*sorted(points), strict=True))
                handles.setdefault(_short(row), axes.plot(x, means, lw=1.3, **look)[0])
                axes.fill_between(x, low, high, color=look["color"], alpha=0.12, lw=0)
                if len(x) == 1:  # a band has no width there
                    axes.vlines(x, low, high, color=look["color"], lw=1)
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticks(sorted(sizes), [sizes[place] for place in sorted(sizes)])
            axes.set_xlabel("real images per class")
            axes.set_title(f"{classifier}{f', {ratio:g} other images for a real one' if ratio else ''}", fontsize=9)
            axes.grid(alpha=0.3)
        logits = special.logit(np.clip([o.accuracy.mean for o in here], LEAST, MOST))
        margin = 0.08 * np.ptp(logits) + 0.1  # the bands of few repetitions would dwarf the curves
        bottom, top = special.expit([logits.min() - margin, logits.max() + margin])
        ticks = [[share for share in shares if bottom <= share <= top] for shares in (SHARES, FINE_SHARES)]
        line[0].set_yscale("logit")
        line[0].set_ylim(bottom, top)
        line[0].yaxis.set_major_locator(FixedLocator(ticks[len(ticks[0]) < FEW_TICKS]))
        line[0].yaxis.set_minor_locator(NullLocator())
        line[0].yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}"))
        line[0].set_ylabel("test accuracy, % (logit scale)")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", fontsize=7, ncols=3)
    figure.suptitle("Mean and 95% interval over the repetitions", fontsize=10)
    return figure


def draw_differences(comparisons: Sequence[Comparison], against: str) -> Figure:
    """The paired differences to one condition with their 95% intervals, one panel a classifier and size."""
    shown = [c for c in comparisons if c.against == against]
    rows = [c.row for c in shown]
    places: dict[tuple[str, str], list[Comparison]] = {}
    for c in reversed(shown):
        places.setdefault((c.row.classifier, c.row.size), []).append(c)
    places = dict(reversed(places.items()))
    width, most = 3.2 + 3.4 * len(places), max(map(len, places.values()))
    figure = Figure(figsize=(width, 1.2 + 0.28 * most), layout="constrained")
    panels = figure.subplots(1, len(places), squeeze=False)[0]
    for axes, ((classifier, size), here) in zip(panels, places.items(), strict=True):
        for height, c in enumerate(here):
            mean, half = 100 * c.paired.interval.mean, 100 * c.paired.interval.half
            look = style(c.row, rows) | {"linestyle": "none"}
            axes.errorbar(mean, height, xerr=0 if math.isinf(half) else half, capsize=2.5, **look)
        effect = 100 * here[0].effect
        axes.axvspan(-effect, effect, color="0.9", zorder=0)
        axes.axvline(0, color="0.4", lw=0.8)
        if effect > 0:  # linear as far as twice that, then logarithmic: a ruined condition would hide all others
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
        axes.set_title(f"{classifier}, {size} per class", fontsize=9)
        axes.grid(axis="x", alpha=0.3)
    about_it = "mean paired difference, 95% interval; grey: too small to matter; logarithmic beyond twice that"
    break_ = ": " if len(places) > 1 else "\n"
    figure.suptitle(f"Against {CONDITIONS[against].title}{break_}{about_it}", fontsize=9)
    return figure


def draw_images(blocks: Mapping[str, Dataset]) -> Figure:
    """Real beside synthetic images: a block a source, one row per class."""
    figure = Figure(figsize=(1.9 * len(blocks), 3.5), layout="constrained")
    for axes, (title, data) in zip(figure.subplots(1, len(blocks), squeeze=False)[0], blocks.items(), strict=True):
        rows = []
        for label in range(data.num_classes):
            some = data.images[data.labels == label][:SHOWN].cpu()
            rows.append(torch.cat([some, torch.zeros(SHOWN - len(some), 1, 28, 28, dtype=torch.uint8)]))
        axes.imshow(grid(torch.cat(rows), SHOWN).numpy(), cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        axes.set_title(title, fontsize=8)
    return figure


def draw_loop(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Numbers of the generations of self-consuming training: {panel: {curve: [generation 0, 1, ...]}}."""
    figure = Figure(figsize=(1 + 3.8 * len(curves), 3.4), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for number, (name, values) in enumerate(lines.items()):
            again, colour = divmod(number, len(COLOURS))
            look = {"color": COLOURS[colour], "marker": MARKERS[number % len(MARKERS)]}
            axes.plot(values, label=name, ms=4, lw=1.3, linestyle=LINES[again % len(LINES)], **look)
        axes.set_xlabel("generation", fontsize=8)
        axes.set_ylabel(title, fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    return figure


def _short(row: Row) -> str:
    return f"{row.condition}{f' ({row.source})' if row.source else ''}"
