"""ONNX files compute what PyTorch does, for any batch, and say what they are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import mnistgen
from safetensors.torch import load_file
from tiny import Tiny, TinyConfig, Walker

from mnistgen import Noise, registry, sample, save
from mnistgen.data import to_float
from mnistgen.errors import MnistgenError, UsageError
from mnistgen.evaluator import build_classifier, load_evaluator, save_classifier
from mnistgen.export import _bucketize, _clamp, _Given, _names, _Recorder, export_onnx, file_of, noise_of
from mnistgen.published import shipped_checkpoints

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")


class Looker(Tiny):
    """Decides by what it sees, which no graph can."""

    def sample(self, y: torch.Tensor, *, noise: Noise, temperature: float = 1.0) -> torch.Tensor:
        images = super().sample(y, noise=noise, temperature=temperature)
        return images if float(images.mean()) > 0 else -images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """checkpoints/walker, which draws uniform and normal noise; checkpoints/looker; a classifier."""
    path = tmp_path_factory.mktemp("export")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        for cls in (Walker, Looker):
            name = cls.__name__.lower()
            patch.setattr(registry, "entry_of", lambda _, name=name: registry.Entry(name, "tiny-models", "1.0", "tiny"))
            save(path / "checkpoints" / name, cls(TinyConfig(), num_classes=4), steps=7)
    save_classifier(path / "checkpoints" / "evaluators" / "mlp-mnist", build_classifier("mlp", seed=3))
    return path


@pytest.fixture
def plugins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    known = {"walker": Walker, "looker": Looker}
    monkeypatch.setattr(registry, "model_class", known.__getitem__)


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_a_model_is_a_function_of_labels_and_noise(folder: Path) -> None:
    text = mnistgen(folder, "export", "walker", "--steps", "3", "--out", "w.onnx")
    assert "exported: w.onnx" in text
    assert "grey level" in text
    file = session(folder / "w.onnx")
    model = Walker(TinyConfig(), num_classes=4)
    model.load_state_dict(load_file(folder / "checkpoints" / "walker" / "model.safetensors"))
    labels = [3, 0, 1, 1, 2, 3, 0]
    inputs = noise_of(file, len(labels), seed=11)
    assert {each.name: each.shape[1:] for each in file.get_inputs()} == {
        "labels": [],
        "uniform": [1, 28, 28],
        "noise": [3],
    }
    images = file.run(None, {"labels": np.array(labels), **inputs})[0]
    expected = sample(model, labels, seed=11, steps=3)[:, 0].numpy()
    assert images.dtype == np.uint8
    assert images.shape == (7, 28, 28)
    assert np.abs(images.astype(int) - expected).max() <= 1
    about = file.get_modelmeta().custom_metadata_map
    assert about["model"] == "walker"
    assert json.loads(about["steps"]) == 7
    assert json.loads(about["sampling"]) == {"steps": 3, "bright": False}
    assert len(about["checkpoint_sha256"]) == 64
    assert str(Path(__file__).parent.parent).encode() not in (folder / "w.onnx").read_bytes()  # no one's paths


@pytest.mark.usefixtures("plugins")
def test_an_evaluator_takes_pixels(folder: Path, tmp_path: Path) -> None:
    assert file_of("evaluator:A").name == "evaluator-a.safetensors"
    export_onnx("evaluator:mlp", tmp_path / "mlp.onnx")
    images = torch.randint(0, 256, (5, 28, 28), dtype=torch.uint8)
    logits = session(tmp_path / "mlp.onnx").run(None, {"images": images.numpy()})[0]
    model = build_classifier("mlp", seed=3).eval()
    with torch.no_grad():
        assert np.allclose(logits, model(to_float(images[:, None])).numpy(), atol=1e-4)
    with pytest.raises(UsageError, match=r"no evaluator 'mpl'\. There is A, B, mlp-mnist, random"):
        export_onnx("evaluator:mpl", tmp_path / "x.onnx")


@pytest.mark.usefixtures("plugins")
def test_what_is_no_graph_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(MnistgenError, match="looker: PyTorch cannot express this model with these options as ONNX"):
        export_onnx("looker", tmp_path / "looker.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("plugins")
def test_what_differs_from_pytorch_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def __init__(self, *arguments: Any, **options: Any) -> None: ...

        def run(self, names: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [np.zeros((len(feeds["labels"]), 28, 28), np.uint8)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Other)
    monkeypatch.setattr("mnistgen.export._traced", lambda *_: Program())
    with pytest.raises(MnistgenError, match="walker: not exported, because onnxruntime differs from PyTorch"):
        export_onnx("walker", tmp_path / "walker.onnx")
    assert not list(tmp_path.iterdir())


class Program:
    """As much of torch's as is asked of it."""

    def __init__(self) -> None:
        self.model = type("Model", (), {"metadata_props": {}})
        self.model_proto = type("Proto", (), {"SerializeToString": lambda self: b""})()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(
        MnistgenError, match=r"ONNX needs onnxscript, which is not installed: pip install 'mnistgen\[onnx\]'"
    ):
        export_onnx("dcgan", tmp_path / "x.onnx")


def test_draws_of_one_shape_are_one_input() -> None:
    recorder = _Recorder(5, range(2))
    drawn = [recorder.normal(3), recorder.normal(3), recorder.uniform(3), recorder.normal(3), recorder.normal(4)]
    assert recorder.draws == [("normal", (3,), 2), ("uniform", (3,), 1), ("normal", (3,), 1), ("normal", (4,), 1)]
    assert _names(recorder.draws) == ["noise", "uniform", "noise_2", "noise_3"]
    given = _Given(recorder.draws, recorder.inputs)
    again = [given.normal(3), given.normal(3), given.uniform(3), given.normal(3), given.normal(4)]
    assert all(torch.equal(one, other) for one, other in zip(drawn, again, strict=True))


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("count", [1, 7, 255, 256])
def test_bucketize_by_search(right: bool, count: int) -> None:
    edges = torch.randn(count, generator=torch.Generator().manual_seed(0)).sort().values
    values = torch.cat([torch.linspace(-4, 4, 500), edges, torch.tensor([-torch.inf])])
    assert torch.equal(_bucketize(values, edges, right=right), torch.bucketize(values, edges, right=right))


@pytest.mark.parametrize(("low", "high"), [(None, 0.5), (-0.5, None), (-0.5, 0.5)])
def test_clamp_by_choice(low: float | None, high: float | None) -> None:
    values = torch.tensor([-torch.inf, -1.0, -0.5, 0.0, 0.5, 1.0, torch.inf, torch.nan])
    assert torch.equal(_clamp(values, low, high).nan_to_num(9.0), values.clamp(low, high).nan_to_num(9.0))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "dcgan" else pytest.mark.long)
        for name in sorted(shipped_checkpoints())
    ],
)
def test_every_shipped_model(name: str, tmp_path: Path) -> None:
    away = export_onnx(f"mnistgen:{name}", tmp_path / "model.onnx")
    assert away.mean < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", ["A", "B"])
def test_the_evaluators(name: str, tmp_path: Path) -> None:
    assert export_onnx(f"evaluator:{name}", tmp_path / "model.onnx").largest < 1e-3
    load_evaluator(name)
