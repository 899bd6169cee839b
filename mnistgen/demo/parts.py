"""The parts that the page is put together from: controls, pictures, the canvas and the map. It needs gradio."""

import functools
import html
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gradio as gr
import torch
from PIL import Image
from torch import Tensor

from mnistgen.demo.canvas import SIDE
from mnistgen.errors import MnistgenError
from mnistgen.mosaic import data_uri
from mnistgen.sampling import captioned, grid
from mnistgen.sampling.options import SamplingOption

STATIC = Path(__file__).with_name("static")
SCALE = 3  # screen pixels for each pixel of a picture
COLUMNS = 4  # of a picture of answers
# The usual bounds of the field's sampling options; any other number is typed.
RANGES: dict[str, tuple[float, float, float]] = {
    "steps": (1, 100, 1),
    "temperature": (0, 2, 0.05),
    "truncation": (0, 2, 0.05),
    "guidance_scale": (0, 5, 0.05),
    "top_p": (0.05, 1, 0.01),
    "eta": (0, 1, 0.05),
}
INKS = {"ink": "#ffffff", "erase": "#000000"}
MARKS = {"fill in": "#ff7a00", **INKS}
PEN, MARKER = 24, 46  # pixels wide
# One thing at a time on two cores.
COMPUTE: dict[str, Any] = {"concurrency_id": "compute", "concurrency_limit": 1, "show_progress": "minimal"}
QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Show what mnistgen refuses as a sentence on the page."""

    def sentence(error: MnistgenError) -> gr.Error:
        text = html.escape(str(error), quote=False)
        return gr.Error(text, duration=20, title="That does not work", print_exception=False)

    @functools.wraps(function)
    def steps(*arguments: Any) -> Iterator[Any]:
        try:
            yield from function(*arguments)
        except MnistgenError as error:
            raise sentence(error) from None

    @functools.wraps(function)
    def once(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except MnistgenError as error:
            raise sentence(error) from None

    return steps if inspect.isgeneratorfunction(function) else once


# --- Controls ---


def model_of(names: Sequence[str], info: str) -> Any:
    return gr.Dropdown(list(names), value=names[0], label="Model", info=info)


def seed_of(seed: int, info: str) -> Any:
    return gr.Number(seed, label="Seed", info=info, precision=0, minimum=0, min_width=100)


def digit_of(digits: Sequence[str], value: str, label: str, info: str) -> Any:
    return gr.Dropdown(
        list(digits), value=value if value in digits else digits[0], label=label, info=info, min_width=110
    )


def buttons(*names: str) -> list[Any]:
    """The buttons that begin something, the first one as the main one, and one that stops it."""
    with gr.Row():
        kinds = ["primary", *["secondary"] * len(names)]
        return [gr.Button(name, variant=kind, min_width=80) for name, kind in zip([*names, "Stop"], kinds, strict=True)]


def stops(stop: Any, status: Any, *events: Any) -> None:
    """Make a button end these events."""
    stop.click(lambda: "Stopped.", None, status, cancels=list(events), queue=False, api_visibility="private")


def control(option: SamplingOption, mine: SamplingOption | None) -> Any:
    """The control of a sampling option, seen where the model that is chosen has it."""
    kind = type(option.default)
    look = settings(mine or option) | {"visible": mine is not None, "label": option.name.replace("_", " ").capitalize()}
    if typing.get_origin(option.kind) is Literal:
        return gr.Dropdown(list(typing.get_args(option.kind)), **look)
    if kind is bool:
        return gr.Checkbox(**look)
    if option.name in RANGES:
        low, high, step = RANGES[option.name]
        return gr.Slider(low, high, step=step, **look)
    return gr.Number(precision=0 if kind is int else None, **look)


def settings(option: SamplingOption) -> dict[str, Any]:
    """What of a control is the model's own."""
    return {"value": option.default, "info": option.help or "An option of this model's sampler.", "visible": True}


def download(label: str) -> Any:
    """A button that downloads a file, once there is one."""
    return gr.DownloadButton(label, interactive=False, size="sm", min_width=80)


def nothing() -> Any:
    return gr.update(value=None, interactive=False)


def file(path: Path) -> Any:
    return gr.update(value=path, interactive=True)


def whole(number: float | None) -> int:
    return int(number or 0)


# --- Pictures ---


def shown_picture(label: str) -> Any:
    """A place for a picture."""
    return gr.Image(
        label=label,
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_classes="picture",
        alt_text=label,
    )


def picture(image: Tensor, *, columns: Sequence[str] = ()) -> Image.Image:
    """A grid (h, w) uint8 as it is shown, large."""
    return Image.fromarray(captioned(image, columns=columns, scale=SCALE).numpy())


def answers_picture(images: Tensor, n: int) -> Image.Image:
    """The answers so far, with room for the others."""
    return picture(grid(filled(images, n), min(n, COLUMNS)))


def filled(images: Tensor, n: int) -> Tensor:
    """Images, and black ones up to n of them."""
    return torch.cat([images, images.new_zeros(n - len(images), 1, 28, 28)])


def figures(shown: Sequence[tuple[Tensor, str, str]], kind: str = "") -> str:
    """Images (h, w) uint8 with a caption and a text for those who do not see them."""
    parts = [
        f'<figure><img src="{data_uri(image)}" alt="{html.escape(alt)}">'
        f"<figcaption>{html.escape(text)}</figcaption></figure>"
        for image, text, alt in shown
    ]
    return f'<div class="figures {kind}">{"".join(parts)}</div>'


# --- The canvas and the map ---


def pad(label: str, inks: Mapping[str, str]) -> Any:
    """A canvas to draw on with the pointer; `inks` are colours by name, the first of them in the pen."""
    pens = [
        f'<button type="button" data-colour="{colour}" aria-pressed="{str(place == 0).lower()}">'
        f'<i style="background: {colour}"></i>{name}</button>'
        for place, (name, colour) in enumerate(inks.items())
    ]
    wide = PEN if inks is INKS else MARKER
    return gr.HTML(
        "",
        label=label,
        html_template=f'<div class="pad"><p>{label}</p>'
        f'<canvas width="{SIDE}" height="{SIDE}" data-wide="{wide}" role="img" aria-label="{label}"></canvas>'
        f'<div class="inks">{"".join(pens)}<button type="button" data-empty>empty</button></div></div>',
        js_on_load=(STATIC / "pad.js").read_text("utf-8"),
    )


def surface_of(name: str) -> Any:
    """A place for a map."""
    return gr.HTML("", js_on_load=(STATIC / "lens.js").read_text("utf-8"), elem_id=name)


def map_html(image: Tensor, steps: int, model: str) -> str:
    """A grid without gaps, and a lens."""
    words = f"codes of {html.escape(model)}, {steps} by {steps} images; arrow keys move the lens"
    return (
        f'<div class="map" tabindex="0" data-steps="{steps}">'
        f'<img src="{data_uri(image)}" alt="{words}" draggable="false">'
        '<div class="lens" role="img" aria-label="the image under the pointer"></div></div>'
    )
