"""Models are built from a config that is checked first, and weighed before it takes memory."""

import json
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from command import mnistgen
from safetensors.torch import load_file, save_file
from tiny import Tiny, TinyConfig
from torch import nn

from mnistgen import CheckpointError, UsageError, load, save
from mnistgen.building import build, create_model
from mnistgen.checkpoint import find, read_checkpoint


@dataclass(frozen=True)
class OddConfig(TinyConfig):
    blocks: int = 1
    empty: int = 0
    shape: tuple[int, ...] = (1, 2)
    pair: tuple[int, float] = (1, 2.0)
    kind: Literal["a", "b", 3] = "a"
    on: bool = False
    word: str = ""
    most: int | None = None


class Odd(Tiny):
    """A third party's model, with parts that hold no weights."""

    Config = OddConfig

    def __init__(self, config: OddConfig, num_classes: int = 10) -> None:
        super().__init__(config, num_classes)
        self.blocks = nn.ModuleList([nn.Linear(1, 1) for _ in range(config.blocks)])
        self.empty = nn.Sequential(*[nn.ReLU() for _ in range(config.empty)])


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("latent_dim", 1.5, "latent_dim is 1.5; it must be an int."),
        ("latent_dim", True, "it must be an int"),
        ("latent_dim", 10**30, "it must be an int"),
        ("lr", "fast", "lr is 'fast'; it must be a float."),
        ("lr", 10**400, "it must be a float"),
        ("lr", None, "it must be a float"),
        ("kind", "c", "kind is 'c'; it must be one of 'a', 'b', 3."),
        ("schedule", ["cosine"], r"schedule is \('cosine',\); it must be one of 'cosine'"),
        ("shape", [1, [2]], r"shape is \(1, \(2,\)\); it must be a tuple of which each is an int"),
        ("shape", 3, "must be a tuple"),
        ("pair", [1], "it must be a tuple of 2: an int, a float"),
        ("on", 1, "on is 1; it must be a bool"),
        ("most", "3", "most is '3'; it must be an int or None"),
        ("word", {"a": "x" * 100}, "it must be a str"),
        ("latent_dimm", 3, "OddConfig has no field 'latent_dimm'. Did you mean 'latent_dim'"),
    ],
)
def test_a_config_has_values_of_its_types(name: str, value: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        OddConfig.from_dict({name: value})
    if not isinstance(value, list) and name != "latent_dimm":
        with pytest.raises(UsageError, match=says):
            OddConfig(**{name: value})


def test_a_config_goes_to_a_dict_and_json_and_back() -> None:
    config = OddConfig(shape=(3,), pair=(2, 1), kind=3, on=True, lr=1)
    assert OddConfig.from_dict(config.to_dict()) == config
    assert OddConfig.from_json(config.to_json()) == config
    assert OddConfig.from_dict({"shape": [3]}) == OddConfig(shape=(3,))


def changed(path: Path, target: Path, **metadata: str) -> Path:
    """A checkpoint whose description says something else, in JSON."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])["__metadata__"]
    header.pop("checksum", None)
    save_file(load_file(path), target, header | metadata)
    return target


@pytest.mark.parametrize(
    "config",
    [{"latent_dim": 10**6}, {"latent_dim": 10**12}, {"blocks": 10**9}, {"empty": 10**9}, {"latent_dim": 2**62}],
)
def test_a_file_with_a_hostile_config_is_weighed(tmp_path: Path, config: dict[str, int]) -> None:
    save(tmp_path / "a.safetensors", Odd(OddConfig(blocks=2), 4))
    assert load(tmp_path / "a.safetensors", model_class=Odd).config.blocks == 2
    path = changed(tmp_path / "a.safetensors", tmp_path / "b.safetensors", config=json.dumps(config))
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=r"its weights are [\d,]+ numbers, and a Odd with .* far larger"):
        load(path, model_class=Odd)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("vae", {"width": 10**6}),
        ("vae", {"prior_layers": 10**9}),
        ("flow", {"blocks": 10**9}),
        ("vqvae", {"prior_layers": 10**9}),
    ],
)
def test_shipped_models_with_a_hostile_config_are_weighed(tmp_path: Path, name: str, config: dict[str, int]) -> None:
    about = read_checkpoint(name).config | config
    path = changed(find(name), tmp_path / "a.safetensors", config=json.dumps(about))
    with pytest.raises(CheckpointError, match="far larger"):
        load(path)


@pytest.mark.parametrize(
    "metadata",
    [
        {"config": '{"latent_dim": 1.5}'},
        {"config": '{"schedule": ["cosine"]}'},
        {"config": '{"schedule": "cosinus"}'},
        {"config": "[" * 100_000 + "]" * 100_000},
        {"config": "[]"},
        {"model": "[1]"},
        {"model": "{}"},
        {"model": "3"},
        {"num_classes": "true"},
        {"num_classes": "0"},
        {"num_classes": "1000000000"},
        {"steps": '"many"'},
        {"scores": "[]"},
    ],
)
def test_a_description_that_makes_no_sense_is_a_sentence(tmp_path: Path, metadata: dict[str, str]) -> None:
    save(tmp_path / "a.safetensors", Tiny(TinyConfig(), 4))
    path = changed(tmp_path / "a.safetensors", tmp_path / "b.safetensors", **metadata)
    with pytest.raises(CheckpointError, match=r"b\.safetensors: ") as caught:
        load(path, model_class=Tiny)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"latent_dim": 10**9}, r"Odd with latent_dim 1000000000 is too large: training it takes about 31\.\d TB"),
        ({"latent_dim": 2**61}, "more than can be counted"),
        ({"blocks": 10**9}, "more than can be counted, and .* of memory are free here. Give smaller numbers"),
    ],
)
def test_what_does_not_fit_into_memory_is_not_tried(config: dict[str, int], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build(Odd, OddConfig.from_dict(config), 4)


def test_a_class_that_cannot_be_counted_is_built_under_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reads(Odd):
        def __init__(self, config: OddConfig, num_classes: int = 10) -> None:
            torch.zeros(3).sum().item()  # which the meta device cannot
            super().__init__(config, num_classes)

    assert build(Reads, OddConfig(), 4).encoder.weight.shape == (3, 784)
    with pytest.raises(UsageError, match=r"too large: training it takes more than can be counted, and"):
        build(Reads, OddConfig(latent_dim=10**9), 4)


def test_create_model_draws_its_weights_from_the_seed() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (create_model("vae", seed=seed, width=4, blocks=1) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.config.width == 4
    assert one.num_classes == 10
    for (name, a), b, c in zip(one.named_parameters(), two.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.std() == 0 or not torch.equal(a, c), name
    with pytest.raises(UsageError, match=r"no field 'widht'\. Did you mean 'width'"):
        create_model("vae", widht=4)
    assert nn.Module.__init__.__name__ == "__init__"  # the count of modules is gone


@pytest.mark.parametrize("flags", [("vae", "--width", "100000"), ("wgan_gp", "--latent-dim", "100000000000")])
def test_train_refuses_what_does_not_fit(tmp_path: Path, flags: tuple[str, ...]) -> None:
    text = mnistgen(tmp_path, "train", *flags, "--data", "digits", "--steps", "1", code=2)
    assert "too large: training it takes about" in text
    assert not (tmp_path / "checkpoints").exists()
