"""Checkpoints: what goes in comes out, and what is damaged is said so."""

import json
import pickle
import struct
import tempfile
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import Tiny, TinyConfig, blobs

import mnistgen
from mnistgen import CheckpointError, load, read_checkpoint, sample, save
from mnistgen.checkpoint import find, load_state, save_state


@pytest.fixture
def model() -> Tiny:
    torch.manual_seed(0)
    return Tiny(TinyConfig(latent_dim=5, lr=3e-4), num_classes=4)


def test_a_checkpoint_rebuilds_its_model(model: Tiny, tmp_path: Path) -> None:
    data = blobs()
    save(tmp_path / "tiny", model, dataset=data, steps=7, seed=3, seconds=1.23, scores={"validation_loss": 0.5})
    about = read_checkpoint(tmp_path / "tiny")
    assert (about.steps, about.seed, about.seconds, about.dataset, about.dataset_hash) == (
        7,
        3,
        1.2,
        "blobs",
        data.hash,
    )
    assert about.scores == {"validation_loss": 0.5}
    again = load(tmp_path / "tiny", model_class=Tiny)
    assert again.config == model.config
    assert again.num_classes == 4
    assert not again.training
    assert torch.equal(sample(again, [0, 1, 2, 3]), sample(model, [0, 1, 2, 3]))
    # The file alone, under any name, and as strict safetensors.
    moved = (tmp_path / "tiny" / "model.safetensors").rename(tmp_path / "else.safetensors")
    assert torch.equal(load(moved, model_class=Tiny).encoder.weight, model.encoder.weight)
    assert set(load_file(moved)) == set(model.state_dict())


def test_lower_precision_is_read_into_the_model(model: Tiny, tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", model.bfloat16())
    assert load(tmp_path / "a.safetensors", model_class=Tiny).encoder.weight.dtype == torch.float32


def test_a_class_that_is_not_registered_must_be_given(model: Tiny, tmp_path: Path) -> None:
    save(tmp_path / "tiny", model)
    with pytest.raises(CheckpointError, match="model_class="):
        load(tmp_path / "tiny")


def test_names(model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save("checkpoints/tiny-blobs", model)
    save("checkpoints/single.safetensors", model)
    for name in ("tiny-blobs", "single", "checkpoints/tiny-blobs", "checkpoints/single.safetensors"):
        assert read_checkpoint(name).num_classes == 4
    with pytest.raises(CheckpointError, match="Did you mean 'tiny-blobs'"):
        load("tiny-blob")
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        load("checkpoints")


def test_a_models_name_is_its_checkpoint_for_mnist(
    model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="tiny"):
        find("tiny")
    save(Path("checkpoints") / "tiny-mnist", model, steps=1)
    assert find("tiny") == find("tiny-mnist") == Path("checkpoints/tiny-mnist/model.safetensors")
    save(Path("checkpoints") / "tiny", model, steps=2)
    assert find("tiny") == Path("checkpoints/tiny/model.safetensors")  # what has the very name comes first
    assert find("vae") == find("vae-mnist")  # the shipped one


ROOT = Path(__file__).parents[1]
STARTERS = sorted(path.stem for path in (ROOT / "checkpoints").glob("*.safetensors"))


@pytest.mark.parametrize("name", STARTERS)
def test_a_starter_checkpoint_is_shipped(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # with nothing in it
    about = read_checkpoint(name)
    assert (f"{about.model}-{about.dataset}", about.seed) == (name, 0)
    images = sample(load(name), range(10), seed=0).float()
    assert (images < 10).float().mean() > 0.6  # white strokes on black
    assert (images > 200).flatten(1).float().mean(1).min() > 0.01


@pytest.mark.parametrize("name", STARTERS)
def test_a_starter_checkpoint_is_in_the_wheel_and_has_a_card_and_pictures(name: str) -> None:
    file = f"checkpoints/{name}.safetensors"
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"][file] == f"mnistgen/{file}"
    most = 8 if mnistgen.model_class(name.removesuffix("-mnist")).family == "diffusion" else 4
    assert (ROOT / file).stat().st_size < most * 2**20
    assert f"`{name}.safetensors`" in (ROOT / "checkpoints/README.md").read_text("utf-8")
    assert f"`{name}/grid.png`" in (ROOT / "samples/README.md").read_text("utf-8")
    assert (ROOT / f"samples/{name}/grid.png").is_file()


def test_there_are_starter_checkpoints() -> None:
    assert {f"{name}-mnist" for name in mnistgen.list_models()} <= set(STARTERS)


def test_weights_that_are_not_finite_are_not_written(model: Tiny, tmp_path: Path) -> None:
    save(tmp_path / "tiny", model)
    before = (tmp_path / "tiny" / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.decoder.bias[3] = torch.inf
    with pytest.raises(CheckpointError, match=r"decoder.bias is not finite"):
        save(tmp_path / "tiny", model)
    assert (tmp_path / "tiny" / "model.safetensors").read_bytes() == before


def test_another_network_is_told_from_damage(model: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(path, model)

    class Wider(Tiny):
        def __init__(self, config: TinyConfig, num_classes: int) -> None:
            super().__init__(config, num_classes)
            self.more = torch.nn.Linear(2, 2)

    with pytest.raises(CheckpointError, match="does not fit the installed"):
        load(path, model_class=Wider)
    save_file(load_file(path), tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="no mnistgen checkpoint"):
        read_checkpoint(tmp_path / "foreign.safetensors")
    save_file(load_file(path), tmp_path / "new.safetensors", _metadata(path, format=2))
    with pytest.raises(CheckpointError, match="format 2"):
        read_checkpoint(tmp_path / "new.safetensors")
    save_file(load_file(path), tmp_path / "odd.safetensors", _metadata(path, config={"latent_dimm": 5}))
    with pytest.raises(CheckpointError, match="latent_dimm"):
        load(tmp_path / "odd.safetensors", model_class=Tiny)
    save_file(load_file(path), tmp_path / "lost.safetensors", _metadata(path, model="gone", distribution="elsewhere"))
    with pytest.raises(CheckpointError, match=r"plugin 'gone' of elsewhere"):
        load(tmp_path / "lost.safetensors")


def _metadata(path: Path, **changes: object) -> dict[str, str]:
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    return header["__metadata__"] | {name: json.dumps(value) for name, value in changes.items()}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_is_a_checkpoint_error(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        torch.manual_seed(0)
        save(path, Tiny(TinyConfig(latent_dim=1), 4))
        content = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            content = content[: data.draw(st.integers(0, len(content) - 1))]
        else:
            at = data.draw(st.integers(0, 900))
            content[at : at + 4] = data.draw(st.binary(min_size=0, max_size=8))
        path.write_bytes(content)
        with suppress(CheckpointError):  # and nothing else
            load(path, model_class=Tiny)


def test_the_state_is_read_without_unpickling(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "a.pt").write_bytes(pickle.dumps(Evil()))
    torch.save({"identity": Evil()}, tmp_path / "b.pt")
    save_state(tmp_path / "c.pt", {"no": "run"})
    messages = {"a.pt": "damaged", "b.pt": "damaged", "c.pt": "not the state", "d.pt": "nothing to resume"}
    for name, message in messages.items():
        with pytest.raises(CheckpointError, match=message):
            load_state(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_the_public_names_are_all_there() -> None:
    assert set(mnistgen.__all__) == set(mnistgen._MODULE)
    for name in mnistgen.__all__:
        assert getattr(mnistgen, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        mnistgen.nonsense  # noqa: B018
