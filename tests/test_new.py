"""Models in a file of one's own, and the files that `mnistgen new` writes."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from mnistgen import MnistgenError, PluginError, UsageError, registry
from mnistgen.cli import main
from mnistgen.cli.new import Family, write_file
from mnistgen.registry import model_class, register_file
from mnistgen.testing import check_model, synthetic_digits

ABILITIES = {
    "vae": ["likelihood (lower bound, of stochastically binarised pixels)", "latent codes", "reconstruction"],
    "gan": ["decoded codes"],
    "diffusion": ["sampling trajectory"],
    "autoregressive": ["likelihood (exact, of pixels that are white above half grey)"],
    "normalizing_flow": ["likelihood (lower bound, of 8-bit pixels)", "latent codes", "reconstruction"],
}
MODEL = """
from mnistgen import GenerativeModel

class {name}(GenerativeModel):
    def losses(self, x, y): ...
    def sample(self, y, *, noise): ...
"""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No file is known before a test, no clock runs, and networks this small are slower on several threads."""
    monkeypatch.setattr(registry, "_FILES", {})
    monkeypatch.setattr("mnistgen.testing.QUICK_SECONDS", math.inf)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "autoregressive")) for name in get_args(Family)],
)
def test_what_new_writes_passes_the_quick_check(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_file(tmp_path / f"my_{family}.py", family)
    code, text = main(["check", str(tmp_path / f"my_{family}.py"), "--quick"]), capsys.readouterr().out
    assert code == 0, text
    assert f"abilities: {', '.join(ABILITIES[family])}" in text
    assert "0 broken, 2 not tried" in text
    cls = model_class(f"my_{family}")
    assert cls.__name__ == f"My{family.title().replace('_', '')}"
    assert cls.family == family


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(
            name, marks=pytest.mark.long if name in ("autoregressive", "normalizing_flow") else pytest.mark.slow
        )
        for name in get_args(Family)
    ],
)
def test_what_new_writes_passes_the_whole_check(family: Family, tmp_path: Path) -> None:
    write_file(tmp_path / f"my_{family}.py", family)
    check_model(model_class(register_file(str(tmp_path / f"my_{family}.py"))))


def test_a_model_in_a_file_is_trained_and_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "./mine.py", "--family", "vae"]) == 0
    assert "mnistgen train ./mine.py" in capsys.readouterr().out
    data = synthetic_digits(40)
    np.savez("squares.npz", images=data.images[:, 0].numpy(), labels=data.labels.numpy())
    train = ["train", "./mine.py", "--data", "squares.npz", "--steps", "2", "--device", "cpu", "--quiet"]
    assert main(train) == 0
    assert "--plugin ./mine.py" in capsys.readouterr().out
    registry._FILES.clear()  # another process

    sample = ["sample", "checkpoints/mine-squares-npz", "--count", "4", "--device", "cpu", "--out", "drawn.npz"]
    assert main(sample) == 1
    assert "its model is that of the file mine.py; say where that is: --plugin ./mine.py" in capsys.readouterr().err
    for flag in (["--plugin", "./mine.py"], ["--plugin=./mine.py"]):
        registry._FILES.clear()
        Path("drawn.npz").unlink(missing_ok=True)
        assert main([*sample, *flag]) == 0
        with np.load("drawn.npz") as arrays:
            assert arrays["images"].shape == (4, 28, 28)
    assert main(["models", "--plugin", "./mine.py"]) == 0
    assert "mine\tvae\tA small conditional VAE of linear layers.\tmine.py" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "given", "error", "message"),
    [
        (None, "there.py", UsageError, "there.py: there is no such file"),
        ("", "there.py", UsageError, "defines no model; derive a class from mnistgen.GenerativeModel"),
        (MODEL.format(name="A") + MODEL.format(name="B"), "there.py", UsageError, "defines A and B; name one"),
        (MODEL.format(name="Aa"), "there.py:Ab", UsageError, "defines no model 'Ab'. Did you mean 'Aa'"),
        ("\n1 / 0", "there.py", PluginError, r"there.py:2 cannot be imported: ZeroDivisionError"),
        ("a b", "there.py", PluginError, "SyntaxError.*line 1"),
        ("raise SystemExit", "there.py", PluginError, "SystemExit"),
        (MODEL.format(name="A"), "vae.py", UsageError, "there is a model 'vae' already, of mnistgen"),
        (MODEL.format(name="A"), "a b.py", UsageError, "cannot name a model"),
        ("from mnistgen import GenerativeModel", "there.py", UsageError, "defines no model; derive"),
    ],
)
def test_a_file_that_gives_no_model_is_refused(
    source: str | None, given: str, error: type[MnistgenError], message: str, tmp_path: Path
) -> None:
    if source is not None:
        (tmp_path / given.partition(":")[0]).write_text(source)
    with pytest.raises(error, match=message):
        register_file(str(tmp_path / given))
    assert not registry._FILES


def test_one_of_several_classes_may_be_named_and_helpers_lie_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "helper_of_two.py").write_text(MODEL.format(name="Base"))
    text = "from helper_of_two import Base\n" + MODEL.format(name="A") + MODEL.format(name="B")
    (tmp_path / "two.py").write_text(text)
    assert model_class(register_file(f"{tmp_path}/two.py:B")).__name__ == "B"
    assert registry.file_of("two") == f"{tmp_path}/two.py:B"
    assert registry.file_of("vae") == ""


def test_new_overwrites_no_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("kept")
    with pytest.raises(MnistgenError, match="exists already"):
        write_file(tmp_path / "mine.py")
    assert (tmp_path / "mine.py").read_text() == "kept"
    with pytest.raises(UsageError, match="'vae' already"):
        write_file(tmp_path / "vae.py")
