"""The page of the demo: five tabs over the plain functions of this package. It needs gradio."""

import html
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from mnistgen.demo import completing, exploring, reading, scores
from mnistgen.demo.canvas import decode, encode, grey_of, read_canvas
from mnistgen.demo.drawing import Drawing, side_by_side
from mnistgen.demo.models import Models
from mnistgen.demo.parts import (
    COMPUTE,
    INKS,
    MARKS,
    QUICK,
    answers_picture,
    buttons,
    control,
    digit_of,
    download,
    figures,
    file,
    filled,
    map_html,
    model_of,
    nothing,
    pad,
    picture,
    seed_of,
    settings,
    shown_picture,
    stops,
    surface_of,
    told,
    whole,
)
from mnistgen.model import HasDecoder, HasEditing, HasLatents, HasTrajectory
from mnistgen.sampling import grid
from mnistgen.sampling.options import SamplingOption
from mnistgen.scoring import Score

NONE = "none"
CORNERS = (("Top left", "3"), ("Top right", "3")), (("Bottom left", "5"), ("Bottom right", "8"))
SIZES = ("1000", "5000", "10000")  # images of a score, whose scales ship
STEPS = ("as it was taken", "the ink, light on black", "cropped to the ink", "fitted into 20x20, centred in 28x28")
Steps = Iterator[tuple[Any, ...]]


class Page:
    """The page over some models."""

    def __init__(self, models: Models, *, seed: int = 0, data_dir: Path | None = None) -> None:
        self.models, self.seed, self.data_dir = models, seed, data_dir
        self.reader = reading.Reader(data_dir)
        self.digits = [str(label) for label in range(models.num_classes)]
        self._folder = tempfile.TemporaryDirectory(prefix="mnistgen-demo-")  # of files to take home

    def build(self) -> gr.Blocks:
        """All of it."""
        with gr.Blocks(title="mnistgen", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
            gr.Markdown("# mnistgen\nGenerative models of handwritten digits, at work on this machine.")
            with gr.Tab("Draw"):
                self.draw()
            if self.models.able(HasEditing):
                with gr.Tab("Complete"):
                    self.complete()
            if self.models.able(HasDecoder):
                with gr.Tab("Explore"):
                    with gr.Tab("Map of codes"):
                        self.map()
                    with gr.Tab("From digit to digit"):
                        self.interpolate()
                    with gr.Tab("One coordinate"):
                        self.traverse()
            with gr.Tab("Read"):
                self.read()
            with gr.Tab("Score"):
                self.score()
        return blocks

    # --- Draw ---

    def draw(self) -> None:
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                name = model_of(self.models.names, "Which model draws.")
                digits = gr.Textbox("0123456789", label="Digits", info="2026 in a row, a range 0-9, or a list 3,8.")
                with gr.Row():
                    each = gr.Number(
                        3, label="Of each", info="Images.", precision=0, minimum=1, maximum=20, min_width=100
                    )
                    seed = seed_of(self.seed, "Same seed, same images.")
                button, stop = buttons("Draw")
                with gr.Accordion("Sampling options"):
                    options = self.options(name, self.models.names[0])
                with gr.Accordion("A second model beside it", open=False):
                    other = model_of([NONE, *self.models.names], "It draws from the same noise: the same seed.")
                    other_options = self.options(other, NONE)
            with gr.Column(scale=3, min_width=300):
                status = gr.Markdown("Press Draw.", elem_id="draw-status")
                with gr.Row():
                    panes = [self.pane("Images", shown=True), self.pane("Beside it", shown=False)]

        @told
        def draw(
            model: str,
            digits: str,
            each: float,
            seed: float,
            options: dict[str, Any] | None = None,
            other: str = NONE,
            other_options: dict[str, Any] | None = None,
        ) -> Steps:
            """Draw digits by one model or two on the same noise, as they form."""
            asked = [(model, options), *([(other, other_options)] if other not in (NONE, None) else [])]
            drawings = [Drawing(self.models, n, digits, whole(each), whole(seed), o) for n, o in asked]
            second = gr.update(visible=len(drawings) > 1)
            yield "Loading ...", gr.skip(), None, second, *(nothing() for _ in range(4))
            shown, files = [gr.skip(), gr.skip()], [nothing() for _ in range(4)]
            for steps in side_by_side([drawing.steps() for drawing in drawings]):
                for place, step in enumerate(steps):
                    if step is not None:
                        shown[place] = picture(step.picture)
                    if step is not None and step.last:
                        saved = drawings[place].save(step, self.folder())
                        files[2 * place : 2 * place + 2] = map(file, saved)
                words = "; ".join(step.words for step in steps if step)
                if all(step and step.last for step in steps):
                    words += "".join(f"\n\n`{drawing.command}`" for drawing in drawings)
                yield words, *shown, second, *files

        pictures, (_, column), files = zip(*panes, strict=True)
        outputs = [status, *pictures, column, *files[0], *files[1]]
        inputs = [name, digits, each, seed, options, other, other_options]
        look: dict[str, Any] = {"show_progress_on": status, **COMPUTE}
        event = button.click(draw, inputs, outputs, api_name="draw", **look)
        entered = digits.submit(draw, inputs, outputs, api_visibility="private", **look)
        stops(stop, status, event, entered)

    def pane(self, label: str, *, shown: bool) -> tuple[Any, Any, tuple[Any, Any]]:
        """A picture, the column that it is in, and the buttons that download it."""
        with gr.Column(visible=shown, min_width=280) as column:
            image = shown_picture(label)
            with gr.Row():
                files = download("PNG"), download("NPZ")
        return image, column, files

    def options(self, name: Any, chosen: str) -> Any:
        """The controls of the sampling options of the model that is chosen; what they are set to, as JSON."""
        given = gr.JSON(None, label="Sampling options that differ from the model's own", visible="hidden")
        entries = list(self.models.entries.values())
        first = {option.name for entry in entries for option in entry.options[:2]}  # those that are seen at once
        union = {option.name: option for entry in entries for option in entry.options}
        mine = self.options_of(chosen)
        none = gr.Markdown("This model has none.", visible=not mine and chosen != NONE)
        controls = {key: control(option, mine.get(key)) for key, option in union.items() if key in first}
        with gr.Accordion("More", open=False, visible=not set(mine) <= first) as more:
            controls |= {key: control(option, mine.get(key)) for key, option in union.items() if key not in first}
        for key, component in controls.items():
            merge = f"(options, value) => ({{...(options || {{}}), {key}: value}})"
            component.input(None, [given, component], given, js=merge)

        def change(name: str) -> list[Any]:
            there = self.options_of(name)
            updates = [settings(there[key]) if key in there else {"visible": False} for key in controls]
            states = [gr.update(visible=not there and name != NONE), gr.update(visible=not set(there) <= first)]
            return [None, *states, *(gr.update(**update) for update in updates)]

        name.change(change, name, [given, none, more, *controls.values()], **QUICK)
        return given

    def options_of(self, name: str) -> dict[str, SamplingOption]:
        return {} if name == NONE else {option.name: option for option in self.models[name].options}

    def folder(self) -> Path:
        """A new folder for files, which lasts as long as the page."""
        return Path(tempfile.mkdtemp(dir=self._folder.name))

    # --- Complete ---

    def complete(self) -> None:
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                canvas = pad("Paint in orange over what is to be filled in.", MARKS)
                digit = digit_of(self.digits, "3", "Digit", "What the model is to make of it.")
                fresh = gr.Button("Put this digit on the canvas")
            with gr.Column(scale=1, min_width=280):
                name = model_of(self.models.able(HasEditing), "The diffusion models can fill in and vary.")
                answers = gr.Slider(1, 16, 8, step=1, label="Answers", info="How many different ones.")
                strength = gr.Slider(
                    0, 1, 0.7, step=0.05, label="Strength", info="Of a variation: 0 is the digit itself, 1 a new one."
                )
                seed = seed_of(self.seed, "Another seed, other answers.")
                fill, change, stop = buttons("Fill in", "Vary")
            with gr.Column(scale=2, min_width=300):
                status = gr.Markdown("Put a digit on the canvas or draw one, mark a part in orange, press Fill in.")
                result = shown_picture("Answers")

        @told
        def new_digit(model: str, digit: str, seed: float) -> Any:
            """A digit for the canvas, to begin with."""
            return encode(completing.new_digit(self.models, model, int(digit), whole(seed)))

        @told
        def complete(canvas: str, model: str, digit: str, answers: float, seed: float) -> Steps:
            """Fill in what is marked in orange, several times."""
            found, n = read_canvas(decode(canvas)), whole(answers)
            yield f"{model} is filling in ...", gr.skip()
            for images in completing.complete(self.models, model, found, int(digit), n, whole(seed)):
                yield f"{model}: {len(images)} of {n}", answers_picture(images, n)

        @told
        def vary(canvas: str, model: str, digit: str, strength: float, answers: float, seed: float) -> Steps:
            """Variations of what is on the canvas."""
            found, n = read_canvas(decode(canvas)), whole(answers)
            yield f"{model} is varying ...", gr.skip()
            for images in completing.variations(self.models, model, found, int(digit), strength, n, whole(seed)):
                yield f"{model}: {len(images)} of {n}", answers_picture(images, n)

        both = [status, result]
        fresh.click(new_digit, [name, digit, seed], canvas, api_name="new_digit", **COMPUTE)
        filling = fill.click(complete, [canvas, name, digit, answers, seed], both, api_name="complete", **COMPUTE)
        varying = change.click(vary, [canvas, name, digit, strength, answers, seed], both, api_name="vary", **COMPUTE)
        stops(stop, status, filling, varying)

    # --- Explore ---

    def map(self) -> None:
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                name = model_of(self.with_codes(), "Whose codes are shown.")
                corners = []
                for pair in CORNERS:
                    with gr.Row():
                        corners += [digit_of(self.digits, value, place, "Its digit.") for place, value in pair]
                steps = gr.Slider(4, 24, 14, step=1, label="Images a side", info="More are finer, and slower.")
                seed = seed_of(self.seed, "Another seed, other codes in the corners.")
                button, stop = buttons("Show the map")
            with gr.Column(scale=2, min_width=280):
                status = gr.Markdown(
                    "Four random codes in the corners, and all that lies between them. A model whose codes have two "
                    "coordinates (`mnistgen train vae --latent-dim 2`) shows all of them."
                )
                surface = surface_of("surface")

        @told
        def show(
            model: str, top_left: str, top_right: str, bottom_left: str, bottom_right: str, steps: float, seed: float
        ) -> Steps:
            """The surface of a model's codes, row by row."""
            n, labels = whole(steps), [int(label) for label in (top_left, top_right, bottom_left, bottom_right)]
            for images in exploring.surface(self.models, model, labels, n, whole(seed)):
                rows = len(images) // n
                words = f"{model}: row {rows} of {n}"
                if rows == n:
                    words = "Move the pointer over the map, or use the arrow keys."
                yield words, map_html(grid(filled(images, n * n), n, padding=0), n, model)

        event = button.click(show, [name, *corners, steps, seed], [status, surface], api_name="map", **COMPUTE)
        stops(stop, status, event)

    def interpolate(self) -> None:
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                name = model_of(self.with_codes(), "Through whose codes the way leads.")
                with gr.Row():
                    start = digit_of(self.digits, "3", "From", "The first digit.")
                    end = digit_of(self.digits, "8", "To", "The last digit.")
                rows = gr.Slider(1, 8, 4, step=1, label="Ways", info="How many, each from another code.")
                seed = seed_of(self.seed, "Another seed, other digits.")
                button, stop = buttons("Show the ways")
            with gr.Column(scale=2, min_width=280):
                status = gr.Markdown("The ways between two digits, through the codes of the model.")
                result = shown_picture("Ways")
        with gr.Accordion("Between digits that you draw", open=False):
            gr.Markdown(
                "Draw one of them or both; the model draws one that is left empty. Drawings need a model that has "
                f"codes of given images: {', '.join(self.models.able(HasLatents)) or 'none of these'}."
            )
            with gr.Row():
                canvases = [pad(place, INKS) for place in ("From", "To")]
            drawn = gr.Button("Show the way between them", variant="primary")

        @told
        def interpolate(model: str, start: str, end: str, rows: float, seed: float) -> Steps:
            """Ways from one digit to another."""
            n = whole(rows)
            yield f"{model} is on its way ...", gr.skip()
            for images in exploring.ways(self.models, model, int(start), int(end), n, whole(seed)):
                done = len(images) // exploring.STEPS
                yield f"{model}: way {done} of {n}", picture(grid(images, exploring.STEPS))

        @told
        def between(model: str, start: str, end: str, first: str, last: str, seed: float) -> tuple[Any, Any]:
            """The way between two digits, of which one or both are drawn."""
            read = [self.drawn(canvas) for canvas in (first, last)]
            given = zip((int(start), int(end)), read, strict=True)
            labels = [label if found is None else found.digit for label, found in given]
            one, other = (None if found is None else found.image for found in read)
            way = exploring.way_between(self.models, model, (one, other), (labels[0], labels[1]), whole(seed))
            said = [f"a {found.digit}" for found in read if found is not None]
            words = f"{model}; your drawing is read as {' and '.join(said)}" if said else model
            return words, picture(grid(way, len(way)))

        both = [status, result]
        event = button.click(interpolate, [name, start, end, rows, seed], both, api_name="interpolate", **COMPUTE)
        drawn.click(between, [name, start, end, *canvases, seed], both, api_name="interpolate_drawn", **COMPUTE)
        stops(stop, status, event)

    def traverse(self) -> None:
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                name = model_of(self.with_codes(), "Whose code is changed.")
                number = gr.Slider(0, 63, 0, step=1, label="Coordinate", info="Which one, counted from 0.")
                digits = gr.Textbox("0123456789", label="Digits", info="A row for each of them.")
                span = gr.Slider(
                    0.5, 5, 3, step=0.5, label="Span", info="How far to both sides, in standard deviations."
                )
                seed = seed_of(self.seed, "Another seed, another code.")
                button = gr.Button("Show", variant="primary")
            with gr.Column(scale=2, min_width=280):
                result = shown_picture("One coordinate of one code, the same for each digit")

        @told
        def traverse(model: str, coordinate: float, digits: str, span: float, seed: float) -> Any:
            """One coordinate of a code, from one side to the other."""
            classes = Drawing(self.models, model, digits).classes
            images = exploring.coordinate(self.models, model, whole(coordinate), classes, span, whole(seed))
            values = torch.linspace(-span, span, len(images) // len(classes)).round(decimals=1).tolist()
            return picture(grid(images, len(values)), columns=[f"{value:+.1f}" if value else "0" for value in values])

        inputs = [name, number, digits, span, seed]
        button.click(traverse, inputs, result, api_name="traverse", **COMPUTE)
        for slider in (number, span):
            slider.release(
                traverse, inputs, result, api_visibility="private", trigger_mode="always_last", **COMPUTE
            )  # fmt: skip

    def with_codes(self) -> list[str]:
        """The models that have codes, those first that form an image at once: the others take long here."""
        return sorted(self.models.able(HasDecoder), key=lambda name: issubclass(self.models[name].cls, HasTrajectory))

    def drawn(self, canvas: str | None) -> reading.Reading | None:
        """A drawing as it is read; None of an empty canvas."""
        grey = grey_of(decode(canvas))
        return self.reader.read_drawing(grey) if int(grey.max()) >= reading.DARKEST else None

    # --- Read ---

    def read(self) -> None:
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                with gr.Tab("Draw a digit"):
                    canvas = pad("Draw a digit, large.", INKS)
                    button = gr.Button("Read it", variant="primary")
                with gr.Tab("A photograph"):
                    photo = gr.File(label="Drop a photograph of one digit", file_types=["image"], height=180)
                    look = gr.Button("Read the photograph", variant="primary")
            with gr.Column(scale=2, min_width=300):
                gr.Markdown("### How MNIST's format is made of it")
                steps = gr.HTML("", elem_id="steps")
                gr.Markdown("### What the evaluators read")
                with gr.Row():
                    labels = [
                        gr.Label(label=f"Evaluator {name}", num_top_classes=3, min_width=200)
                        for name in reading.EVALUATORS
                    ]
                gr.Markdown("### The nearest training images")
                neighbours = gr.HTML("", elem_id="neighbours")

        def shown(found: reading.Reading) -> tuple[Any, ...]:
            made = figures([(step, text, text) for step, text in zip(found.steps, STEPS, strict=True)])
            said = [{str(k): float(p) for k, p in enumerate(each)} for each in found.probabilities.values()]
            near = [
                (n.image[0], f"a {n.label}, {n.distance:.1f} away", f"a training image of a {n.label}")
                for n in found.neighbours
            ]
            return made, *said, figures(near, "near") if near else f"<p>{html.escape(found.note)}</p>"

        @told
        def read_drawing(canvas: str) -> tuple[Any, ...]:
            """Read a digit that is drawn on the canvas."""
            return shown(self.reader.read_drawing(grey_of(decode(canvas))))

        @told
        def read_photograph(photograph: str) -> tuple[Any, ...]:
            """Read a photograph of a digit."""
            return shown(self.reader.read_file(photograph))

        outputs = [steps, *labels, neighbours]
        button.click(read_drawing, canvas, outputs, api_name="read_drawing", **COMPUTE)
        look.click(read_photograph, photo, outputs, api_name="read_photograph", **COMPUTE)
        photo.upload(read_photograph, photo, outputs, api_visibility="private", **COMPUTE)

    # --- Score ---

    def score(self) -> None:
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                images = gr.File(label="Drop images: an NPZ or a CSV", file_types=[".npz", ".csv"], height=160)
                info = "How many are scored at most; scores compare at equal numbers."
                n = gr.Dropdown(list(SIZES), value=SIZES[0], label="Images", info=info)
                button, stop = buttons("Score")
            with gr.Column(scale=3, min_width=300):
                status = gr.Markdown(
                    "An NPZ holds an array `images`, (n, 28, 28), and `labels`, (n,), if there are any; "
                    "`mnistgen sample flow --count 1000 --out digits.npz` writes one."
                )
                table = gr.Markdown("", elem_classes="wide", elem_id="score")
                with gr.Row():
                    files = [download("Report (HTML)"), download("Numbers (JSON)")]

        @told
        def score(images: str, n: str) -> Steps:
            """Score a file of images against MNIST's test images."""
            yield "Reading ...", "", nothing(), nothing()
            for done in scores.score_file(images, int(n), data_dir=self.data_dir):
                if done.score is None:
                    yield f"{done.words} ({done.share:.0%})", "", nothing(), nothing()
                else:
                    text, saved = scores.told(done, images, self.folder(), data_dir=self.data_dir)
                    yield headline(done.score), text, *map(file, saved)

        event = button.click(score, [images, n], [status, table, *files], api_name="score", **COMPUTE)
        stops(stop, status, event)


def headline(score: Score) -> str:
    """What matters most of a score, in a sentence."""
    if score.floors is None:
        return f"{score.name} is scored."
    around = "" if score.interval is None else " (95% interval {:.1f} to {:.1f})".format(*score.interval)
    return f"**{score.name}: FID is {score.floors:.1f} times the floor**, which is what other real images get{around}."
