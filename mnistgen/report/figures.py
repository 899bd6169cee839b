"""Training curves of several runs, as SVG to stand in a page."""

import io
import re
from collections.abc import Sequence

from mnistgen.curves import panels
from mnistgen.report.inputs import Run

COLUMNS = 3
POINTS = 400  # of a line; a log may have a hundred thousand


def curves_svg(runs: Sequence[Run]) -> str:
    """One panel a quantity, the runs over one another; text and axes take the colour of the page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    found = {run.name: panels(list(run.records)) for run in runs}
    repeats = {run.name: [panels(list(records)) for records in run.others] for run in runs}
    titles = list(dict.fromkeys(title for lines in found.values() for title in lines))
    if not titles:
        return ""
    rows = -(-len(titles) // COLUMNS)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "mnistgen"}):
        figure = Figure(figsize=(4 * COLUMNS, 2.6 * rows), layout="constrained")
        places = figure.subplots(rows, COLUMNS, squeeze=False).flat
        for axes, title in zip(places, titles, strict=False):
            for number, (name, lines) in enumerate(found.items()):
                for style, (label, points) in zip(("-", "--", ":"), lines.get(title, {}).items(), strict=False):
                    each = [points, *(other.get(title, {}).get(label, []) for other in repeats[name])]
                    steps, low, mean, high = _band(each)
                    if len(each) > 1:
                        axes.fill_between(steps, low, high, color=f"C{number % 10}", alpha=0.2, lw=0)
                    text = (name if len(lines[title]) == 1 else f"{name}, {label}").replace("$", r"\$")
                    axes.plot(steps, mean, style, label=text, lw=1.2, color=f"C{number % 10}")
            axes.set_title(title, fontsize=9)
            axes.tick_params(labelsize=7)
            axes.grid(alpha=0.3)
            if title == titles[0]:
                axes.legend(fontsize=7, frameon=False)
        for axes in figure.axes[len(titles) :]:
            axes.set_visible(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = re.sub(r"#000000|(?<=fill: )black", "currentColor", svg[svg.index("<svg") :])
    return re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"|<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"',
                  lambda found: f"<svg {''.join(group or '' for group in found.groups())}", svg, count=1)  # fmt: skip


def _band(lines: Sequence[Sequence[tuple[int, float]]]) -> tuple[list[int], list[float], list[float], list[float]]:
    """Steps that all of the lines have, and the lowest, the mean and the highest value there."""
    values = [dict(line) for line in lines]
    steps = [step for step in values[0] if all(step in line for line in values)]
    steps = steps[:: max(1, len(steps) // POINTS)]
    at = [[line[step] for line in values] for step in steps]
    return steps, [min(x) for x in at], [sum(x) / len(x) for x in at], [max(x) for x in at]
