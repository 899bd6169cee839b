"""The pages that are made when Sphinx builds: one for each model, the drawing of the layers, links to other files.

A model's page is put together from its source (the docstring of its module says what it is, paper, loss and what was
changed), its config, its checkpoint, its records and its pictures. Nothing in it is typed here.
"""

import ast
import dataclasses
import inspect
import re
import tomllib
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image
from sphinx.application import Sphinx
from tables import models as table_of_models
from tables import plain, train_command

from mnistgen.checkpoint import read_checkpoint
from mnistgen.model import GenerativeModel
from mnistgen.published import Published, published, record, shipped_checkpoints
from mnistgen.registry import Entry, entries, model_class
from mnistgen.sampling.options import option_help
from mnistgen.text import docstring

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(([^):#]+\.md)\)")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir)))
    app.connect("source-read", link_files)
    app.connect("autodoc-process-docstring", plain_docstring)
    return {"parallel_read_safe": True}


def write_pages(docs: Path) -> None:
    """Write `models/` and the drawing of the layers, which git ignores."""
    folder, known = docs / "models", published()
    folder.mkdir(exist_ok=True)
    ours = {name: entry for name, entry in entries().items() if entry.distribution == "mnistgen"}
    pages = {f"{name}.md": model_page(entry, known.get(name)) for name, entry in ours.items()}
    pages["index.md"] = index(list(ours))
    for path in folder.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        _write(folder / name, text)
    _write(docs / "layers.svg", layers(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))))


def link_files(app: Sphinx, page: str, source: list[str]) -> None:
    """Turn links to Markdown outside of docs/, which is no page here, into downloads."""
    docs = Path(app.srcdir)

    def linked(match: re.Match[str]) -> str:
        target = (docs / page).parent.joinpath(match[1]).resolve()
        return match[0] if target.is_relative_to(docs) else f"](path:{match[1]})"

    source[0] = LINK.sub(linked, source[0])


def plain_docstring(  # Sphinx calls it with all of these
    _app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    """Docstrings are plain text: what is indented is a formula, and only backticks mean something."""
    shown: list[str] = []
    for block in _blocks("\n".join(lines)):
        if block.startswith("    "):
            shown += [".. code-block:: text", "", *block.splitlines(), ""]
        else:
            text = re.sub(
                r"`+([^`]*)`+|([\\*|]|_(?!\w))", lambda m: f"``{m[1]}``" if m[1] else f"\\{m[2] or ''}", block
            )
            shown += [*text.splitlines(), ""]
    lines[:] = shown


def index(names: list[str]) -> str:
    """The page of all models."""
    table = re.sub(r"\| `(\w+)` \|", r"| [\1](\1.md) |", table_of_models())
    toc = "\n".join(names)
    return f"# Models\n\n{INDEX}\n\n{table}\n\n```{{toctree}}\n:hidden:\n\n{toc}\n```\n"


INDEX = """All sample the digit that is asked for. FID / floor is the distance to MNIST's test images as a multiple of
what real images get, the larger of those that evaluators A and B see. `labels` is how often evaluator A sees the digit
that was asked for. The time of an image is that of one core. Each page has the paper, the loss, what was changed, and
how to train it."""


def model_page(entry: Entry, found: Published | None) -> str:
    """Everything about one model."""
    cls = model_class(entry.name)
    parts = [f"# {entry.name}", entry.description, _picture(entry.name, "grid.png", "Samples, one row per digit")]
    parts += [_numbers(entry.name, cls, found) if found else "", "## How it works", _module_text(cls)]
    rest = docstring(cls).partition("\n")[2].strip()
    parts += [rest, "## Training", _training(entry.name)]
    parts += [_picture(entry.name, "curves.png", "Losses during training"), "## Hyperparameters", _hyperparameters(cls)]
    parts += ["## Sampling options", _options(cls)] if _options(cls) else []
    nearest = "Samples above, the training images nearest to them below"
    parts += [_picture(entry.name, "nearest.png", nearest), f"Source: `{entry.value.partition(':')[0]}`."]
    return "\n\n".join(part for part in parts if part) + "\n"


def _picture(name: str, file: str, title: str) -> str:
    path = ROOT / "samples" / f"{name}-mnist" / file
    if not path.is_file():
        return ""
    with Image.open(path) as image:
        width = min(image.width, 560)
    return f"```{{figure}} ../../{path.relative_to(ROOT)}\n:width: {width}px\n:alt: {title}\n\n{title}.\n```"


def _numbers(name: str, cls: type[GenerativeModel], found: Published) -> str:
    """The record in a table, with how it was made."""
    score, columns = record("scores-mnist").get(name, {}), found.columns
    rows = [("family", cls.family), ("weights", columns["weights"]), ("training", columns["training"])]
    if score:
        floors, numbers = score["floors"], score["numbers"]
        rows += [
            ("FID / floor", f"**{columns['FID / floor']}** (A {floors['A']:.1f}, B {floors['B']:.1f})"),
            ("FID by evaluator A", f"{numbers['fid.A.penultimate']:.3g}"),
            ("precision, recall", f"{numbers['precision.A.penultimate']:.3f}, {numbers['recall.A.penultimate']:.3f}"),
            ("density, coverage", f"{numbers['density.A.penultimate']:.3f}, {numbers['coverage.A.penultimate']:.3f}"),
            ("label agreement", f"{numbers['label_agreement']:.2%}"),
            ("time of an image", columns["an image"]),
        ]
    table = "\n".join(f"| {what} | {value} |" for what, value in rows)
    made = ""
    if score:
        made = f"\n\n{score['n']:,} samples, seed {score['seed']}, against MNIST's test images, by `{score['command']}`"
        made += f" ({score['machine']}{'; ' + score['note'] if 'note' in score else ''})."
        made += " What the rows mean: [Scores](../scores.md)."
    return f"|  |  |\n| --- | --- |\n{table}{made}"


def _module_text(cls: type[GenerativeModel]) -> str:
    """The docstring of the module as Markdown: what is indented is a formula or a table, and stays as it is."""
    text = ast.get_docstring(ast.parse(Path(inspect.getfile(cls)).read_text("utf-8"))) or ""
    return "\n\n".join(
        f"```text\n{inspect.cleandoc(' ' * 4 + block.strip(chr(10)))}\n```"
        if block.startswith("    ")
        else _prose(block)
        for block in _blocks(text)
    )


def _blocks(text: str) -> list[str]:
    """Paragraphs; indented ones that follow each other are one."""
    blocks: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        if blocks and paragraph.startswith("    ") and blocks[-1].startswith("    "):
            blocks[-1] += f"\n\n{paragraph}"
        else:
            blocks.append(paragraph)
    return blocks


def _prose(text: str) -> str:
    """A paragraph of plain text as Markdown, in which only `code` and addresses mean something."""
    parts = re.split(r"(`[^`]*`|https?://[^\s,;)]*[^\s,;.:)])", text)
    shown = [
        part
        if part.startswith("`")
        else f"<{part}>"
        if part.startswith("http")
        else re.sub(r"([\\*_<>\[\]|~$#])", r"\\\1", part)
        for part in parts
    ]
    return "".join(shown)


def _training(name: str) -> str:
    """The commands, with the flags that made the checkpoint which ships."""
    about, path = "", shipped_checkpoints().get(name)
    if path is not None:
        made = read_checkpoint(path)
        about = (
            f"\n\nThe first command made the checkpoint that ships, in {made.steps:,} steps "
            f"({made.seconds / 60:.0f} minutes), with seed {made.seed}, from images of {made.dataset} with the hash "
            f"`{made.dataset_hash}`."
        )
    return (
        f"```sh\n{train_command(name)}\npython -m mnistgen sample {name}\npython -m mnistgen score {name}\n```{about}"
    )


def _hyperparameters(cls: type[GenerativeModel]) -> str:
    """A table of the config's fields; each is a flag of `train`."""
    helps: dict[str, str] = {}
    for base in reversed(cls.Config.__mro__[:-1]):
        helps |= _field_docs(base)
    rows = [
        (f"`--{field.name.replace('_', '-')}`", f"`{plain(field.default)}`", _cell(helps.get(field.name, "")))
        for field in dataclasses.fields(cls.Config)
    ]
    return _table(("flag", "default", "what it is"), rows)


def _field_docs(cls: type) -> dict[str, str]:
    """The strings that stand behind the fields of a dataclass in its source."""
    try:
        (node,) = ast.parse(inspect.cleandoc(inspect.getsource(cls))).body
    except (OSError, TypeError, ValueError):
        return {}
    assert isinstance(node, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in zip(node.body, node.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _options(cls: type[GenerativeModel]) -> str:
    """A table of what `sample` takes beside labels and noise."""
    helps = option_help(cls)
    rows = [
        (f"`--{name.replace('_', '-')}`", f"`{plain(parameter.default)}`", _cell(helps.get(name, "")))
        for name, parameter in inspect.signature(cls.sample).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name != "noise"
    ]
    return _table(("flag", "default", "what it is"), rows) if rows else ""


def _cell(text: str) -> str:
    return _prose(" ".join(text.split()))


def _table(head: tuple[str, ...], rows: list[tuple[str, str, str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows))


def layers(pyproject: dict[str, Any]) -> str:
    """The layers of the package as an SVG, from the contract that `lint-imports` holds."""
    contract = next(each for each in pyproject["tool"]["importlinter"]["contracts"] if each["type"] == "layers")
    rows = [[name.strip(" ()") for name in re.split("[:|]", layer)] for layer in contract["layers"]]
    rows.insert(0, ["mnistgen_plugins, and yours"])
    width, height, gap = 720, 30, 8
    size = f'viewBox="0 0 {width} {len(rows) * (height + gap)}" width="{width}"'
    font = 'text-anchor="middle" dominant-baseline="middle" font-family="monospace" font-size="13" fill="#1a2733"'
    drawn = [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>']
    for place, row in enumerate(rows):
        each = (width - gap * (len(row) - 1)) / len(row)
        fill = 'fill="#e3edf7" stroke="#7a8ca0"' if place else 'fill="#fdf3d8" stroke="#a08c5a"'
        for column, name in enumerate(row):
            x, y = column * (each + gap), place * (height + gap)
            drawn.append(f'<rect x="{x:.0f}" y="{y}" width="{each:.0f}" height="{height}" rx="4" {fill}/>')
            drawn.append(f'<text x="{x + each / 2:.0f}" y="{y + height / 2:.0f}" {font}>{escape(name)}</text>')
    return "\n".join([*drawn, "</svg>", ""])


def _write(path: Path, text: str) -> None:
    """Write where something is new, so that Sphinx reads only that again."""
    if not path.is_file() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")
