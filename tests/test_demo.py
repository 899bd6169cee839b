"""The demo: what its tabs do is what the commands do; each of its endpoints answers, and refuses in a sentence."""

import base64
import importlib.util
import io
import json
import shlex
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command import mnistgen
from PIL import Image
from tiny import Tiny, TinyConfig, Walker
from torch import Tensor

from mnistgen import Dataset, Noise, sample
from mnistgen.data import load_images, to_float
from mnistgen.demo import completing, exploring, reading, scores
from mnistgen.demo.canvas import MARK, decode, encode, read_canvas
from mnistgen.demo.drawing import Drawing, side_by_side
from mnistgen.demo.models import Models
from mnistgen.errors import CheckpointError, DataError, UsageError
from mnistgen.evaluator.weights import shipped_path
from mnistgen.sampling import grid, inpaint, interpolate, manifold
from mnistgen.sampling.latents import decode_batches

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed")


@pytest.fixture(scope="module")
def models() -> Models:
    """Two quick ones that ship, and one whose images form step by step."""
    return Models(["vae", "dcgan", "meanflow"])


def held(model: Tiny) -> SimpleNamespace:
    """A model where a `Models` is expected."""
    torch.manual_seed(0)
    return SimpleNamespace(load=lambda name: model)


def walker() -> Walker:
    torch.manual_seed(0)
    return Walker(TinyConfig(), 4)


# --- Draw ---


def test_a_drawing_is_what_the_command_draws(models: Models, tmp_path: Path) -> None:
    drawing = Drawing(models, "vae", "20", each=2, seed=3, options={"temperature": 0.5, "unset": None})
    *_, last = drawing.steps()
    assert torch.equal(last.images, sample(models.load("vae"), [2, 0, 2, 0], seed=3, temperature=0.5))
    arguments = shlex.split(drawing.command)[1:]
    mnistgen(tmp_path, *arguments, "--plain", "--scale", "1", "--out", "same.png")
    assert np.array_equal(np.array(Image.open(tmp_path / "same.png")), last.picture.numpy())


def test_the_files_are_of_the_images_that_are_seen(models: Models, tmp_path: Path) -> None:
    drawing = Drawing(models, "vae", "3-4", each=2)
    *_, last = drawing.steps()
    png, npz = drawing.save(last, tmp_path)
    assert np.array_equal(np.array(Image.open(png))[::2, ::2], last.picture.numpy())
    data = load_images(npz)
    assert torch.equal(data.images, last.images)
    assert data.y.tolist() == [3, 3, 4, 4]


def test_an_image_forms_step_by_step(models: Models) -> None:
    steps = list(Drawing(models, "meanflow", "7", options={"steps": 3}).steps())
    assert [step.words for step in steps] == [f"meanflow: step {n} of 3" for n in (1, 2, 3)] + ["meanflow: 1 images"]
    assert torch.equal(steps[-1].images, sample(models.load("meanflow"), [7], steps=3))
    assert not torch.equal(steps[0].images, steps[-1].images)


def test_two_drawings_form_side_by_side() -> None:
    found = list(side_by_side([iter("ab"), iter("xyz")]))
    assert found == [["a", None], ["a", "x"], ["b", "x"], ["b", "y"], ["b", "z"]]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"digits": "10-20"}, "names no classes"),
        ({"each": 0}, "there are 1 to 400 in a picture"),
        ({"digits": "0-9", "each": 41}, "410 images"),
        ({"seed": -1}, "seed is -1"),
        ({"options": {"temprature": 1.0}}, "has no sampling option 'temprature'. Did you mean 'temperature'"),
        ({"options": [1.0]}, "are values by name"),
        ({"options": {"temperature": "warm"}}, "temperature is 'warm'"),
        ({"name": "flow"}, "There is no model 'flow' here"),
    ],
)
def test_what_cannot_be_drawn(wrong: dict, says: str, models: Models) -> None:
    with pytest.raises(UsageError, match=says):
        list(Drawing(models, **({"name": "vae"} | wrong)).steps())


def test_a_classifier_is_no_model() -> None:
    with pytest.raises(CheckpointError, match="holds the classifier"):
        Models([str(shipped_path("A"))])


def test_whole_numbers_are_whole(models: Models) -> None:
    assert models["meanflow"].checked({"steps": 2.0}) == {"steps": 2}
    with pytest.raises(UsageError, match="whole number"):
        models["meanflow"].checked({"steps": 2.5})


# --- Complete ---


def canvas() -> Tensor:
    """White ink at the left, an orange mark at the right, nothing between, 10 pixels for one."""
    rgba = torch.zeros(280, 280, 4, dtype=torch.uint8)
    rgba[40:240, 40:80] = 255
    rgba[:, 140:] = torch.tensor([*MARK, 255], dtype=torch.uint8)
    return rgba


def test_a_canvas_is_ink_and_marks() -> None:
    found = read_canvas(canvas())
    assert found.image[0, 4:24, 4:8].eq(255).all()
    assert found.image.float().sum() == 255 * 20 * 4
    assert found.mask[0, :, 14:].all()
    assert not found.mask[0, :, :14].any()


def test_a_canvas_travels_as_a_picture() -> None:
    assert torch.equal(decode(painted(canvas())), canvas())
    image = torch.zeros(1, 28, 28, dtype=torch.uint8)
    image[0, 10:20, 10:20] = 255
    assert (read_canvas(decode(encode(image))).image.int() - image.int()).abs().max() < 60
    for wrong in ("data:image/png;base64,????", "x", "data:image/png;base64,AAAA"):
        with pytest.raises(UsageError, match="no PNG"):
            decode(wrong)


def test_what_is_not_marked_stays() -> None:
    model, found = walker(), read_canvas(canvas())
    *_, answers = completing.complete(held(model), "walker", found, 2, 3, seed=5)
    assert answers[:, :, :, :14].eq(found.image[:, :, :14]).all()
    at_once = inpaint(model, to_float(found.image).repeat(3, 1, 1, 1), [2, 2, 2], found.mask, seed=5)
    assert torch.equal(answers, at_once)


def test_variations_are_further_the_stronger() -> None:
    found = read_canvas(canvas())
    away = []
    for strength in (0.0, 0.5):
        *_, images = completing.variations(held(walker()), "walker", found, 1, strength, 2, seed=0)
        away.append((images.float() - found.image.float()).abs().mean())
    assert away[0] == 0 < away[1]


def test_there_is_nothing_to_complete() -> None:
    empty = read_canvas(torch.zeros(280, 280, 4, dtype=torch.uint8))
    with pytest.raises(UsageError, match="paint in orange"):
        next(completing.complete(held(walker()), "walker", empty, 1, 1, seed=0))
    with pytest.raises(UsageError, match="canvas is empty"):
        next(completing.variations(held(walker()), "walker", empty, 1, 0.5, 1, seed=0))
    marked = read_canvas(canvas())
    with pytest.raises(UsageError, match="cannot edit"):
        next(completing.complete(held(Tiny(TinyConfig(), 4)), "tiny", marked, 1, 1, seed=0))


# --- Explore ---


def test_the_corners_of_a_surface_are_codes() -> None:
    model, labels = walker(), [0, 1, 2, 3]
    *_, images = exploring.surface(held(model), "walker", labels, 5, seed=4)
    corners = Noise(4, range(4)).normal(3)
    (decoded,) = decode_batches(model, corners, torch.tensor(labels))
    assert images.shape == (25, 1, 28, 28)
    assert (images[[0, 4, 20, 24]].int() - decoded.int()).abs().max() <= 1


def test_a_model_of_two_coordinates_shows_them_all() -> None:
    model = Tiny(TinyConfig(latent_dim=2), 4)
    *_, images = exploring.surface(held(model), "tiny", [3, 0, 0, 0], 6, seed=0)
    assert torch.equal(images, manifold(model, 3, steps=6))


def test_ways_come_one_by_one() -> None:
    model = walker()
    first, both = exploring.ways(held(model), "walker", 1, 2, 2, seed=8)
    assert torch.equal(first, both[:10])
    assert torch.equal(both[10:], interpolate(model, 1, 2, rows=1, seed=9))


def test_the_ends_of_a_way_are_what_is_drawn() -> None:
    model, drawn = walker(), read_canvas(canvas()).image
    way = exploring.way_between(held(model), "walker", (drawn, None), (1, 3), seed=2)
    assert torch.equal(way[0], drawn)
    assert torch.equal(way[-1], sample(model, [1, 3], seed=2)[1])


# --- Read ---


def test_a_drawing_is_read_without_the_dataset(tmp_path: Path) -> None:
    ink = torch.zeros(280, 280, dtype=torch.uint8)
    ink[40:240, 130:150] = 255  # a stroke from top to bottom
    found = reading.Reader(tmp_path).read_drawing(ink)
    assert found.digit == 1
    assert found.image.shape == (1, 28, 28)
    assert found.neighbours == []
    assert "need MNIST on disk" in found.note


def test_the_nearest_training_image_of_one_is_itself(mnist: Dataset) -> None:
    image = mnist.images[7, 0]
    found = reading.Reader().read(reading.Steps(image, image, image, image))
    assert found.neighbours[0].distance == 0
    assert torch.equal(found.neighbours[0].image, mnist.images[7])
    assert [n.distance for n in found.neighbours] == sorted(n.distance for n in found.neighbours)
    assert found.digit == found.neighbours[0].label == int(mnist.y[7])


def test_what_cannot_be_read(tmp_path: Path) -> None:
    reader = reading.Reader(tmp_path)
    with pytest.raises(UsageError, match="canvas is empty"):
        reader.read_drawing(torch.zeros(280, 280, dtype=torch.uint8))
    with pytest.raises(UsageError, match="no photograph"):
        reader.read_file("")
    (tmp_path / "wrong.png").write_text("no picture")
    with pytest.raises(DataError, match="cannot be read as a picture"):
        reader.read_file(tmp_path / "wrong.png")


# --- Score ---


def test_a_thread_says_how_far_it_is() -> None:
    done = list(scores.in_a_thread(lambda progress: progress("half", 0.5) or "score"))
    assert [(each.words, each.share, each.score) for each in done] == [("half", 0.5, None), ("done", 1.0, "score")]


def test_a_thread_raises_here_and_ends_where_nobody_waits() -> None:
    def fail(progress: scores.Progress) -> None:
        raise DataError("no good")

    with pytest.raises(DataError, match="no good"):
        list(scores.in_a_thread(fail))
    goes_on, ended = threading.Event(), threading.Event()

    def work(progress: scores.Progress) -> None:
        try:
            progress("first", 0.1)
            goes_on.wait(10)
            progress("second", 0.2)
        except scores.Stopped:
            ended.set()
            raise

    steps = scores.in_a_thread(work)
    assert next(steps).words == "first"
    steps.close()
    goes_on.set()
    assert ended.wait(10)


def test_what_cannot_be_scored(models: Models, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no file"):
        next(scores.score_file("", 1000))
    with pytest.raises(UsageError, match="is a checkpoint"):
        next(scores.score_file(models["vae"].path, 1000))
    np.savez(tmp_path / "wrong.npz", weights=np.zeros(3))
    with pytest.raises(DataError, match=r"wrong\.npz"):
        next(scores.score_file(tmp_path / "wrong.npz", 1000))


# --- The command, the page and its endpoints ---


def test_without_gradio_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert 'pip install "mnistgen[demo]"' in mnistgen(tmp_path, "demo", code=2)


@needs_gradio
def test_wrong_requests(tmp_path: Path) -> None:
    assert "--port is 70000" in mnistgen(tmp_path, "demo", "--port", "70000", code=2)
    assert "no-such" in mnistgen(tmp_path, "demo", "no-such", code=2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "nothing can be served there" in mnistgen(tmp_path, "demo", "vae", "--port", port, code=2)


@pytest.fixture(scope="module")
def url(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A served page, without the dataset."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    import uvicorn

    from mnistgen.demo.server import application, listening

    with listening("127.0.0.1", None) as place:
        app = application(models, data_dir=tmp_path_factory.mktemp("data"))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{place.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def client(url: str, tmp_path_factory: pytest.TempPathFactory):
    from gradio_client import Client

    return Client(url, verbose=False, download_files=tmp_path_factory.mktemp("client"), analytics_enabled=False)


def pixels(path: str) -> np.ndarray:
    return np.array(Image.open(path).convert("L"))


def painted(rgba: Tensor) -> str:
    file = io.BytesIO()
    Image.fromarray(rgba.numpy()).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def test_draw_endpoint(client, models: Models) -> None:
    words, first, second, png, npz, _, other = client.predict(
        "vae", "42", 1, 6, {"temperature": 0.8}, "dcgan", None, api_name="/draw"
    )
    images = sample(models.load("vae"), [4, 2], seed=6, temperature=0.8)
    assert np.array_equal(pixels(first)[::3, ::3], grid(images, 2).numpy())
    assert np.array_equal(pixels(second)[::3, ::3], grid(sample(models.load("dcgan"), [4, 2], seed=6), 2).numpy())
    assert torch.equal(load_images(value_of(npz)).images, images)
    assert value_of(png).endswith("vae-seed6.png")
    assert "dcgan-seed6.npz" in value_of(other)
    assert "`mnistgen sample vae --per-digit 1 --seed 6 --digits 42 --temperature 0.8`" in words


def value_of(update: str | dict) -> str:
    return update["value"] if isinstance(update, dict) else update


def test_the_other_endpoints(client) -> None:
    drawn = painted(canvas())
    digit = client.predict("meanflow", "3", 0, api_name="/new_digit")
    assert read_canvas(decode(digit)).image.max() > 200
    words, answers = client.predict(drawn, "meanflow", "1", 2, 0, api_name="/complete")
    assert words == "meanflow: 2 of 2"
    assert pixels(answers).shape == (3 * 30, 3 * 60)
    assert pixels(client.predict(drawn, "meanflow", "1", 0.5, 1, 0, api_name="/vary")[1]).shape == (90, 90)
    words, surface = client.predict("vae", "3", "3", "5", "8", 4, 0, api_name="/map")
    assert "arrow keys" in words
    assert 'data-steps="4"' in surface
    assert pixels(client.predict("dcgan", "3", "8", 2, 0, api_name="/interpolate")[1]).shape == (180, 900)
    words, way = client.predict("vae", "3", "1", "", drawn, 0, api_name="/interpolate_drawn")
    assert pixels(way).shape == (90, 3 * 30 * 12)
    assert pixels(client.predict("dcgan", 5, "12", 2, 0, api_name="/traverse")).shape[1] == 3 * 30 * 11
    steps, label, _, near = client.predict(drawn, api_name="/read_drawing")
    assert steps.count("<img") == 4
    assert set(label) >= {"label", "confidences"}
    assert "need MNIST on disk" in near


def test_what_is_stopped_does_not_go_on(client) -> None:
    job = client.submit("meanflow", "1", 1, 0, {"steps": 1000}, "none", None, api_name="/draw")
    steps = iter(job)
    assert [next(steps)[0] for _ in range(2)] == ["Loading ...", "meanflow: step 1 of 1000"]
    job.cancel()
    assert "vae: 1 images" in client.predict("vae", "1", 1, 0, None, "none", None, api_name="/draw")[0]
    assert len(job.outputs()) < 1000


def test_what_is_refused_is_refused_in_a_sentence(client, tmp_path: Path) -> None:
    from gradio_client import handle_file

    (tmp_path / "wrong.png").write_text("no picture")
    (tmp_path / "wrong.npz").write_bytes(b"no archive")
    empty = painted(torch.zeros(28, 28, 4, dtype=torch.uint8))
    requests = [
        (("vae", "x", 1, 0, None, "none", None), "/draw", "names no classes of this model"),
        (("vae", "1", 1, 0, {"steps": 3}, "none", None), "/draw", "has no sampling option 'steps'"),
        ((empty, "meanflow", "1", 1, 0), "/complete", "Nothing is marked"),
        ((empty,), "/read_drawing", "canvas is empty"),
        ((handle_file(tmp_path / "wrong.png"),), "/read_photograph", "wrong.png cannot be read as a picture"),
        ((handle_file(tmp_path / "wrong.npz"), "1000"), "/score", "wrong.npz"),
    ]
    for arguments, name, says in requests:
        with pytest.raises(Exception, match=says):
            client.predict(*arguments, api_name=name)


@pytest.mark.slow
def test_a_score_is_the_table_of_the_report(client, models: Models, tmp_path: Path) -> None:
    from gradio_client import handle_file

    images = sample(models.load("dcgan"), list(range(10)) * 20).numpy()[:, 0]
    np.savez(tmp_path / "mine.npz", images=images, labels=np.tile(np.arange(10), 20))
    words, table, page, numbers = client.predict(handle_file(tmp_path / "mine.npz"), "1000", api_name="/score")
    assert "mine" in words
    assert "| mine-npz |" in table
    assert "real images" in table
    assert "<table" in Path(value_of(page)).read_text("utf-8")
    assert json.loads(Path(value_of(numbers)).read_text("utf-8"))[0]["protocol"]["n"] == 200


@needs_gradio
def test_every_control_has_a_word_of_help(models: Models) -> None:
    from gradio.components.base import FormComponent

    from mnistgen.demo.page import Page

    blocks = Page(models).build()
    controls = [block for block in blocks.blocks.values() if isinstance(block, FormComponent)]
    assert len(controls) > 20
    assert [control.label for control in controls if not control.info] == []


@needs_gradio
def test_a_page_has_the_tabs_that_its_models_allow() -> None:
    import gradio as gr

    from mnistgen.demo.page import Page

    blocks = Page(Models(["vqvae"])).build()
    tabs = [block.label for block in blocks.blocks.values() if isinstance(block, gr.Tab)]
    assert [tab for tab in tabs if tab in ("Draw", "Complete", "Explore", "Read", "Score")] == ["Draw", "Read", "Score"]


@pytest.fixture
def browser():
    """A headless browser that logs what it fetches."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("there is no chromium with its chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


@pytest.mark.slow
def test_in_a_browser(url: str, browser) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def wait(condition):
        return WebDriverWait(browser, 60).until(condition)

    browser.get(url)
    wait(lambda b: b.find_elements(By.XPATH, "//button[normalize-space()='Draw' and contains(@class, 'primary')]"))[
        0
    ].click()
    wait(lambda b: "mnistgen sample vae" in b.find_element(By.ID, "draw-status").text)
    image = wait(lambda b: b.find_elements(By.CSS_SELECTOR, ".picture img"))[0]
    assert wait(lambda b: image.get_property("naturalWidth")) == 3 * 30 * 10
    for name in ("Complete", "Explore", "Read", "Score"):
        tab = browser.find_element(By.XPATH, f"//button[@role='tab' and normalize-space()='{name}']")
        browser.execute_script("arguments[0].click()", tab)
        wait(lambda b, tab=tab: tab.get_attribute("aria-selected") == "true")
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    fetched = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert fetched
    assert [f for f in fetched if not f.startswith((url, "data:", "blob:", "chrome:", "about:"))] == []
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
