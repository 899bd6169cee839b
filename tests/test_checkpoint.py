"""Checkpoints: what goes in comes out, and what is damaged is said so."""

import copy
import functools
import hashlib
import json
import math
import pickle
import random
import shutil
import struct
import tempfile
import tomllib
from contextlib import suppress
from pathlib import Path

import mnistgen_plugins.diffusion
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import Tiny, TinyConfig, Walker, blobs

import mnistgen
import mnistgen.solvers
from mnistgen import CheckpointError, ContractError, UsageError, fit, integrity, load, sample, save, score, train
from mnistgen.checkpoint import find, hidden, load_state, read_checkpoint, rewrite, save_state
from mnistgen.cli import main
from mnistgen.evaluator import load_classifier
from mnistgen.scoring import open_source


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


def test_parameters_in_half_precision_make_a_float32_model(model: Tiny, tmp_path: Path) -> None:
    model.register_buffer("fine", torch.tensor([1.0, 1.00001]))
    save(tmp_path / "half.safetensors", model, dtype=torch.float16)
    stored = load_file(tmp_path / "half.safetensors")
    assert {name: tensor.dtype for name, tensor in stored.items() if name in dict(model.named_parameters())} == {
        name: torch.float16 for name, _ in model.named_parameters()
    }
    assert torch.equal(stored["fine"], model.fine)
    del model.fine
    save(tmp_path / "tiny.safetensors", model, steps=7, seconds=1.5)
    rewrite(tmp_path / "tiny.safetensors", tmp_path / "again.safetensors", model=model, dtype=torch.float16)
    assert read_checkpoint(tmp_path / "again.safetensors") == read_checkpoint(tmp_path / "tiny.safetensors")
    again = load(tmp_path / "again.safetensors", model_class=Tiny)
    for mine, theirs in zip(model.parameters(), again.parameters(), strict=True):
        assert theirs.dtype == torch.float32
        torch.testing.assert_close(theirs, mine, rtol=2**-11, atol=2**-25)


def test_a_weight_beyond_half_precision_is_not_written(model: Tiny, tmp_path: Path) -> None:
    with torch.no_grad():
        model.encoder.weight.flatten()[0] = 1e5
    with pytest.raises(CheckpointError, match=r"encoder\.weight is not finite"):
        save(tmp_path / "half.safetensors", model, dtype=torch.float16)
    assert not (tmp_path / "half.safetensors").exists()


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
LATE = {"ddpm-mnist", "edm-mnist"}  # take seconds for ten images
STARTERS = sorted(path.stem for path in (ROOT / "checkpoints").glob("*.safetensors"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LATE else name for name in STARTERS]
)
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
    most = 8 if mnistgen.registry.model_class(name.removesuffix("-mnist")).family == "diffusion" else 4
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
    header["__metadata__"].pop("checksum")  # without it, what a test changes is believed
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
    for name in mnistgen.__all__:
        assert getattr(mnistgen, name) is not None
    assert mnistgen.sampling.grid is mnistgen.sampling.pictures.grid
    assert mnistgen.list_models() == sorted(mnistgen.registry.entries())
    with pytest.raises(AttributeError, match="nonsense"):
        mnistgen.nonsense  # noqa: B018


def test_former_public_names_warn() -> None:
    for module, names in mnistgen._MOVED.items():
        for name in names:
            assert name not in mnistgen.__all__
            present = mnistgen._RENAMED.get(name, name)
            with pytest.warns(DeprecationWarning, match=f"mnistgen.{name} is mnistgen.{module}.{present} now"):
                assert getattr(mnistgen, name) is getattr(getattr(mnistgen, module), present)
    with pytest.warns(DeprecationWarning, match="mnistgen.nn.UNet is mnistgen_plugins.diffusion.UNet now"):
        assert mnistgen.nn.UNet is mnistgen_plugins.diffusion.UNet
    with pytest.warns(DeprecationWarning, match="mnistgen.solvers.heun is"):
        assert mnistgen.solvers.heun is mnistgen_plugins.diffusion.heun


@pytest.mark.parametrize("file", ["model.safetensors", "resume.pt"])
def test_one_flipped_bit_is_told(model: Tiny, tmp_path: Path, file: str) -> None:
    """Anywhere: in the header, the description, the weights, the checksum itself."""
    path = tmp_path / file
    save(tmp_path, model, dataset=blobs(), scores={"validation_loss": 0.5})
    save_state(tmp_path / "resume.pt", {"identity": {}, "model": model.state_dict()})
    read = load_state if file == "resume.pt" else functools.partial(load, model_class=Tiny)
    content = path.read_bytes()
    read(path)
    beginning, everywhere = range(8 * 3000), range(8 * len(content))
    chosen = random.Random(0).sample(beginning, 150) + random.Random(1).sample(everywhere, 100) + [*range(8 * 10)]
    for bit in chosen:
        path.write_bytes(content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :])
        with pytest.raises(CheckpointError):
            read(path)


def test_files_without_a_checksum_are_read_as_before(model: Tiny, tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", model)
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", _metadata(tmp_path / "a.safetensors"))
    assert torch.equal(load(tmp_path / "b.safetensors", model_class=Tiny).encoder.weight, model.encoder.weight)
    torch.save({"identity": {"seed": 3}}, tmp_path / "resume.pt")
    assert load_state(tmp_path / "resume.pt") == {"identity": {"seed": 3}}


def test_a_shipped_file_is_the_one_that_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "mnistgen" / "weights", tmp_path / "weights")
    monkeypatch.setattr(integrity, "_PACKAGE", tmp_path)
    path = tmp_path / "weights" / "evaluator-a.safetensors"
    load_classifier(path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not the file that ships with mnistgen"):
        load_classifier(path)
    (tmp_path / "elsewhere.safetensors").write_bytes(content)
    load_classifier(tmp_path / "elsewhere.safetensors")


def test_the_list_of_what_ships_is_right() -> None:
    listed = (ROOT / "mnistgen/weights/SHA256SUMS").read_text("ascii").splitlines()
    for digest, name in (line.split() for line in listed):
        path = next(folder / name for folder in (ROOT / "mnistgen", ROOT) if (folder / name).is_file())
        content = path.read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest or b'"checksum"' in content[:5000], name
    shipped = {path.name for path in (ROOT / "mnistgen/weights").iterdir()} - {"README.md", "SHA256SUMS"}
    assert {name for _, name in (line.split() for line in listed)} >= {f"weights/{name}" for name in shipped} | {
        f"checkpoints/{name}.safetensors" for name in STARTERS
    }


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_is_not_loaded(model: Tiny, tmp_path: Path, value: float) -> None:
    save(tmp_path / "a.safetensors", model)
    weights, metadata = load_file(tmp_path / "a.safetensors"), _metadata(tmp_path / "a.safetensors")
    weights["decoder.bias"][3] = value
    save_file(weights, tmp_path / "b.safetensors", metadata)
    with pytest.raises(CheckpointError, match=r"b\.safetensors: weight decoder\.bias is not finite"):
        load(tmp_path / "b.safetensors", model_class=Tiny)


def test_a_folder_that_cannot_be_read_hides_no_shipped_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    is_file = Path.is_file

    def denied(path: Path) -> bool:  # as for another user's `checkpoints/`; root may read everything
        if path.parts[:1] == ("checkpoints",):
            raise PermissionError(13, "Permission denied")
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", denied)
    assert find("vae").name == "vae-mnist.safetensors"
    with pytest.raises(CheckpointError, match=r"nosuch: cannot be read: Permission denied\. There is"):
        find("nosuch")


def test_a_compiled_model_is_saved_as_the_model_it_wraps(model: Tiny, tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", model)
    save(tmp_path / "b.safetensors", torch.compile(model))
    model.encoder = torch.compile(model.encoder)
    save(tmp_path / "c.safetensors", model)
    model.compile()
    save(tmp_path / "d.safetensors", model)
    for name in "abcd":
        assert read_checkpoint(tmp_path / f"{name}.safetensors") == read_checkpoint(tmp_path / "a.safetensors")
        again = load(tmp_path / f"{name}.safetensors", model_class=Tiny)
        assert torch.equal(again.encoder.weight, model.encoder.weight)
    assert torch.equal(sample(torch.compile(again), [1, 2]), sample(again, [1, 2]))


def test_another_default_of_floats_does_no_harm(tmp_path: Path) -> None:
    def outcome() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        trained = mnistgen.train(mnistgen.create_model("vae", 4, width=4, latent_dim=2), blobs(), steps=2, device="cpu")
        path = tmp_path / f"{torch.get_default_dtype()}.safetensors"
        save(path, trained)
        return sample(trained, [0, 1]), sample(load(path), [0, 1]), sample(load("vae-mnist"), [3])

    expected = outcome()
    torch.set_default_dtype(torch.float64)
    try:
        found = outcome()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(expected, found, strict=True):
        assert (one.int() - other.int()).abs().max() <= 1


def test_a_local_checkpoint_that_hides_a_shipped_one_is_told(
    model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("mnistgen:flow") == find("mnistgen:flow-mnist") == find("flow")
    assert hidden("flow") == hidden("flow-mnist") == hidden("mnistgen:flow") == ""
    shipped = find("vae")
    save("checkpoints/flow-mnist", load("vae"), steps=3)
    for name in ("flow", "flow-mnist"):
        assert read_checkpoint(name).model == "vae"
        assert read_checkpoint(f"mnistgen:{name}").model == "flow"
        assert hidden(name) == (
            f"{name} is checkpoints/flow-mnist/model.safetensors here; the checkpoint that ships with mnistgen is "
            f"mnistgen:{name}."
        )
    assert hidden("checkpoints/flow-mnist") == hidden(shipped) == ""
    assert main(["sample", "flow", "--digits", "1", "--per-digit", "1", "--quiet", "--out", "a.png"]) == 0
    assert "note: flow is checkpoints/flow-mnist/model.safetensors here" in capsys.readouterr().err
    assert main(["sample", "mnistgen:vae", "--digits", "1", "--per-digit", "1", "--quiet", "--out", "a.png"]) == 0
    assert capsys.readouterr().err == ""
    assert open_source("mnistgen:vae").name == "vae-mnist"
    with pytest.raises(CheckpointError, match=r"no shipped checkpoint 'flow-mnst'\. Did you mean 'flow-mnist'"):
        find("mnistgen:flow-mnst")
    with pytest.raises(CheckpointError, match="no shipped checkpoint"):
        find("mnistgen:../checkpoints/flow-mnist")


def test_numbers_that_are_not_finite_leave_no_model(model: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.zeros(4, 1, 28, 28), torch.arange(4)
    walker = Walker(TinyConfig(), 4)
    ten = Tiny(TinyConfig(), 10)
    with torch.no_grad():
        for network in (model, walker, ten):
            network.decoder.weight[0, 0] = torch.nan
    for attempt in (
        lambda: sample(model, [0]),
        lambda: score(ten, n=200),
        lambda: mnistgen.sampling.sample_trajectory(walker, [0]),
        lambda: mnistgen.sampling.fixed_latent(model, [0]),
        lambda: mnistgen.sampling.interpolate(model, 0, 1),
        lambda: mnistgen.sampling.reconstruct(model, x, y),
        lambda: mnistgen.sampling.inpaint(walker, x, y, mnistgen.sampling.region("left")),
        lambda: mnistgen.sampling.vary(walker, x, y, strength=0.5),
    ):
        with pytest.raises(ContractError, match="not finite"):
            attempt()
    with pytest.raises(UsageError, match="temperature is nan"):
        sample(model, [0], temperature=math.nan)


def test_train_returns_the_averaged_model(model: Tiny) -> None:
    last = list(fit(copy.deepcopy(model), blobs(), steps=3, device="cpu"))[-1]
    trained = train(model, blobs(), steps=3, device="cpu")
    assert isinstance(trained, Tiny)
    assert not trained.training
    assert torch.equal(trained.encoder.weight, last.ema.encoder.weight)
    with pytest.raises(UsageError, match="finished already"):
        train(model, blobs(), steps=3, device="cpu", state=last.run.state_dict())
