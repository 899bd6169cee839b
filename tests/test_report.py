"""The page: what is on it is what was given, it is whole without a network, and nothing in it is taken for HTML."""

import base64
import csv
import dataclasses
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import mnistgen
from PIL import Image
from tiny import strokes

from mnistgen.curves import panels
from mnistgen.data import to_float
from mnistgen.errors import DataError, UsageError
from mnistgen.evaluator import load_evaluator
from mnistgen.report import Run, Scored, read_scores, read_sources, table
from mnistgen.report.figures import _band, curves_svg
from mnistgen.report.table import COLUMNS, merged, place, ranked, shared_name
from mnistgen.sampling import grid

HOSTILE = "<script>alert(1)</script> & $x$"


def score(name: str, fid: float, **other: Any) -> dict[str, Any]:
    """As `mnistgen score --json` writes it, of two classes."""
    numbers = {"fid.A.penultimate": fid, "coverage.A.penultimate": 0.9, "label_agreement": 0.98}
    scale = {"fid.A.penultimate": 0.5, "coverage.A.penultimate": 0.95}
    noisy = {"fid.A.penultimate": 50.0, "coverage.A.penultimate": 0.05}
    return {
        "name": name,
        "headline": {"floors": 2 * fid, "by": {"A": 2 * fid, "B": fid}, "interval_95": [fid, 3 * fid]},
        "protocol": {"n": 100, "seed": 3, "reference": "mnist test", "reference_n": 100, "reference_hash": "f00d",
                     "evaluators": {"A": "abc", "B": "def"}, "sampling": {"temperature": 0.8}},
        "numbers": numbers,
        "scale": {"floor": {"mean": scale}, "noisy": {"mean": noisy}},
        "class_names": ["cat", "dog"],
        "details": {"per_class_fid": {"classes": {"0": 1.0, "1": 2.0}}, "labels": {"table": [[49, 1], [2, 48]]}},
        "notes": ["a note"],
    } | other  # fmt: skip


class Page(HTMLParser):
    """The tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, a file of scores and two runs."""
    path = tmp_path_factory.mktemp("report")
    images, labels = strokes(200)
    np.savez(path / "mine.npz", images=images[:, 0].numpy(), labels=labels.numpy())
    (path / "scores.json").write_text(json.dumps([score(HOSTILE, 4.0), score("better", 1.0)]))
    for run in ("one", "two"):
        (path / run).mkdir()
        records = [{"step": s, "lr": 0.1, "losses": {"loss": 1 / s}, "validation": 2 / s} for s in range(1, 9)]
        (path / run / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    told = mnistgen(folder, "report", "mine.npz", "scores.json", "one", "two", "--title", HOSTILE)
    assert "report: report.html" in told
    return Page((folder / "report.html").read_text("utf-8"))


def test_the_images_are_those_of_the_source_by_class(page: Page) -> None:
    images, labels = strokes(200)
    shown = page.all("img")[:10]
    for label, image in enumerate(shown):
        assert image["alt"] == f"10 images of class {label}, mine-npz"
        kind, _, content = str(image["src"]).partition(",")
        assert kind == "data:image/png;base64"
        pixels = np.array(Image.open(io.BytesIO(base64.b64decode(content))))
        assert np.array_equal(pixels, grid(images[labels == label][:10], 10).numpy())


def test_what_an_evaluator_is_least_sure_of(page: Page) -> None:
    (shown,) = [image for image in page.all("img") if str(image["alt"]).startswith("The 20 of 100 images")]
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(str(shown["src"]).partition(",")[2]))))
    assert pixels.shape == (2 * 30, 10 * 30)
    evaluator = load_evaluator("A")
    images, labels = strokes(200)
    first = torch.cat([(labels == label).nonzero()[:10, 0] for label in range(10)])
    with torch.no_grad():
        probabilities = evaluator(to_float(images[first])).softmax(1)
    worst = first[probabilities[torch.arange(100), labels[first]].argmin()]
    assert np.array_equal(pixels[1:29, 1:29], images[worst, 0])
    views = [button["data-view"] for button in page.all("button") if "aria-pressed" in button and "data-view" in button]
    assert views[:2] == ["by class", "least certain"]


def test_seeds_are_one_row_with_mean_and_range() -> None:
    seeds = [
        dataclasses.replace(scored(fid), name=f"vae-seed{seed}", origin="vae", seed=seed)
        for seed, fid in enumerate((1.0, 2.0, 3.0))
    ]
    other = dataclasses.replace(scored(0.5), name="flow", origin="flow", seed=0)
    one, two = ranked(merged([seeds[0], other, *seeds[1:]]))
    assert (one, two.name) == (other, "vae (3 seeds)")
    assert (two.floors, two.ranges["floors"], two.ranges["fid.A.penultimate"]) == (4.0, (2.0, 6.0), (1.0, 3.0))
    assert "| vae (3 seeds) | 4.0 (2.0 to 6.0) |" in table([*seeds, other], "markdown")
    twice = [seeds[0], seeds[0]]
    assert merged(twice) == twice  # one model scored twice, such as with other options
    assert shared_name(["runs/models-0", "runs/models-1"]) == "runs/models"


def test_seeds_are_a_band(folder: Path) -> None:
    records = [[{"step": s, "lr": 0.1, "losses": {"loss": s * k}} for s in (1, 2, 3)[:n]] for k, n in ((1, 3), (3, 2))]
    assert _band([panels(each)["loss"]["training"] for each in records]) == ([1, 2], [1, 2], [2, 4], [3, 6])
    for seed in range(2):
        run = {"model": "vae", "config": {}, "options": {"data": "mnist", "seed": seed, "out": f"runs/vae-{seed}"}}
        (folder / f"vae-{seed}").mkdir()
        (folder / f"vae-{seed}" / "run.json").write_text(json.dumps(run))
        (folder / f"vae-{seed}" / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records[seed]))
    (run,) = read_sources([str(folder / "vae-0"), str(folder / "vae-1")]).runs
    assert (run.name, len(run.others)) == (f"{folder}/vae (2 seeds)", 1)
    assert "vae (2 seeds)" in curves_svg([run])


def test_it_is_whole_without_a_network(page: Page) -> None:
    given = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(value is None or value.startswith(("data:", "#")) for value in given)
    assert not page.all("link")
    assert all("src" not in script for script in page.all("script"))


def test_names_are_text(page: Page) -> None:
    assert len(page.all("script")) == 1  # its own
    assert HOSTILE in page.texts
    assert page.all("td")[0]["data-value"] == "better"


def test_the_command_that_makes_it_again_is_on_it(page: Page) -> None:
    assert any(text.startswith("mnistgen report mine.npz scores.json one two --title") for text in page.texts)


def test_runs_are_drawn_over_one_another(page: Page) -> None:
    assert len(page.all("svg")) == 1
    assert {"one, training", "two, validation", "learning rate"} <= set(page.texts)
    assert curves_svg([Run("none", [])]) == ""


def test_a_study_has_its_verdict_and_figures(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "results.json").write_text(json.dumps({"verdict": "No difference <was> found."}))
    Image.new("L", (3, 2), 77).save(tmp_path / "study" / "accuracy.png")
    mnistgen(tmp_path, "report", "study")
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert "No difference <was> found." in page.texts
    (shown, _) = page.all("img")
    assert shown["alt"] == "accuracy, study"
    content = base64.b64decode(str(shown["src"]).partition(",")[2])
    assert content == (tmp_path / "study" / "accuracy.png").read_bytes()
    (tmp_path / "study" / "results.json").write_text("[]")
    assert "holds no results" in mnistgen(tmp_path, "report", "study", code=1)


def test_a_bar_begins_at_real_images_and_ends_at_noisy_ones() -> None:
    (first, *_) = scores = [scored(fid) for fid in (0.5, 5.0, 50.0, 500.0)]
    by_number = {column.number: column for column in COLUMNS}
    assert first.floors == 1
    for number in ("floors", "fid.A.penultimate"):
        assert [place(each, by_number[number], scores) for each in scores] == pytest.approx([0, 0.5, 1, 1])
    coverage = by_number["coverage.A.penultimate"]
    assert place(first, coverage, scores) == pytest.approx((0.95 - 0.9) / (0.95 - 0.05))
    assert place(first, by_number["cas"], scores) is None


def scored(fid: float) -> Scored:
    numbers = {"fid.A.penultimate": fid, "coverage.A.penultimate": 0.9}
    real = {"fid.A.penultimate": 0.5, "coverage.A.penultimate": 0.95}
    noisy = {"fid.A.penultimate": 50.0, "coverage.A.penultimate": 0.05}
    return Scored("x", fid / 0.5, {"A": fid / 0.5}, None, numbers, real, noisy, "")


def test_tables_for_papers(folder: Path) -> None:
    scores = read_scores(folder / "scores.json")
    assert [each.name for each in ranked(scores)] == ["better", HOSTILE]
    rows = list(csv.DictReader(io.StringIO(table(scores, "csv"))))
    assert [row["model"] for row in rows] == ["better", HOSTILE, "real images"]
    assert [float(row["FID"]) for row in rows] == [1.0, 4.0, 0.5]
    markdown = table(scores, "markdown").splitlines()
    assert len({line.count(" | ") for line in markdown}) == 1
    latex = table([*scores, scored(1.0)], "latex")
    assert r"98.00\%" in latex
    assert all(line.count(" & ") == latex.splitlines()[2].count(" & ") for line in latex.splitlines() if "&" in line)
    text = mnistgen(folder, "report", "scores.json", "--format", "markdown", "--out", "table.md")
    assert "report: table.md" in text
    assert (folder / "table.md").read_text("utf-8") == table(scores, "markdown")


@pytest.mark.parametrize(
    ("content", "says"), [("{", "is no JSON"), ("[1]", "is no file of scores"), ('{"a": 1}', "no file of scores")]
)
def test_files_that_hold_no_scores(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.json").write_text(content)
    with pytest.raises(DataError, match=says):
        read_scores(tmp_path / "wrong.json")


@pytest.mark.parametrize(
    "wrong",
    [
        {"headline": {"floors": "x", "by": {}, "interval_95": None}},
        {"scale": {"floor": {"mean": {"fid.A.penultimate": "y"}}}},
        {"numbers": {"cas": None}},
        {"details": {"per_class_fid": {"classes": {"cat": 1.0}}}},
        {"details": {"labels": {"table": [["z"]]}}},
    ],
)
def test_scores_of_the_wrong_types(wrong: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text(json.dumps([score("x", 1.0, **wrong)]))
    assert "is no file of scores" in mnistgen(tmp_path, "report", "scores.json", code=1)


def test_a_number_that_is_none_has_no_bar(tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text(json.dumps([score("x", float("nan"))]))
    mnistgen(tmp_path, "report", "scores.json")
    assert "nan" in Page((tmp_path / "report.html").read_text("utf-8")).texts


def test_classes_have_their_names(page: Page) -> None:
    assert [text for text in page.texts if text in ("cat", "dog")].count("cat") == 6  # of each score, three times


def test_wrong_requests(folder: Path) -> None:
    assert "Name what the page is to show" in mnistgen(folder, "report", code=2)
    assert "A table needs scores" in mnistgen(folder, "report", "mine.npz", "--format", "csv", code=2)
    assert "a page is not written to standard output" in mnistgen(folder, "report", "one", "--out", "-", code=2)
    with pytest.raises(UsageError, match="Name what the page"):
        read_sources([])
