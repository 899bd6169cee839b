"""`mnistgen draw VERB`: the same pictures as the former flags of `mnistgen sample`, each with a short help."""

from pathlib import Path

import pytest
import torch
from command import mnistgen
from PIL import Image
from tiny import TinyConfig, Walker, blobs

from mnistgen import registry, save
from mnistgen.cli.draw import VERBS
from mnistgen.data import export_data

DATA = ["--data", "blobs.npz", "--split", "all", "--digits", "0-1", "--per-digit", "2"]
# The verb's words, and the flags of `sample` that say the same.
SAME = {
    "interpolate": (["0", "3"], ["--interpolate", "0", "3"]),
    "between": (["3", "8", *DATA[:4]], ["--between", "3", "8", *DATA[:4]]),
    "traverse": (["--digits", "2", "--coordinate", "1"], ["--traverse", "--digits", "2", "--coordinate", "1"]),
    "manifold": (["--digits", "1"], ["--manifold", "--digits", "1"]),
    "reconstruct": (DATA, ["--reconstruct", *DATA]),
    "trajectory": (["--steps", "3"], ["--trajectory", "--steps", "3"]),
    "sweep": (["steps", "1", "2", "--seed", "3"], ["--sweep", "steps", "1", "2", "--seed", "3"]),
    "fixed-latent": (["--per-digit", "2", "--plain"], ["--fixed-latent", "--per-digit", "2", "--plain"]),
    "inpaint": (["--part", "left", *DATA], ["--inpaint", "left", *DATA]),
    "vary": (["--strength", "0.2", "1", *DATA], ["--vary", "0.2", "1", *DATA]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("draw")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "entry_of", lambda _: registry.Entry("walker", "tiny-models", "1.0", "tiny:Walker"))
        save(path / "walker", Walker(TinyConfig(latent_dim=2), num_classes=4))
    export_data(blobs(40), path / "blobs.npz", "npz")
    return path


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_draws_what_the_flag_drew(folder: Path, verb: str) -> None:
    words, flags = SAME[verb]
    text = mnistgen(folder, "draw", verb, "walker", *words, "--out", "verb.png")
    assert "will go" not in text
    assert f"sample {flags[0]} will go: `mnistgen draw {verb}` draws the same" in mnistgen(
        folder, "sample", "walker", *flags, "--out", "flag.png"
    )
    with Image.open(folder / "verb.png") as new, Image.open(folder / "flag.png") as old:
        assert new.tobytes() == old.tobytes()
        assert new.info["Source"].startswith(f"mnistgen draw {verb} walker")


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_a_short_help(folder: Path, verb: str) -> None:
    text = mnistgen(folder, "draw", verb, "--help")
    assert f"mnistgen draw {verb} {VERBS[verb][1]}" in text
    assert "--class-counts" not in text
    assert "None" not in text


def test_wrong_verbs(folder: Path) -> None:
    assert "Did you mean 'interpolate'" in mnistgen(folder, "draw", "interpolat", "walker", code=2)
    text = mnistgen(folder, "draw", code=2)
    assert all(verb in text for verb in VERBS)
    assert "--steps" in mnistgen(folder, "draw", "trajectory", "walker", "--help")
    assert "draw path is called draw trajectory now" in mnistgen(folder, "draw", "path", "walker", "--out", "p.png")
    flags = ("--same-noise", "--out", "n.png")
    assert "--same-noise is called --fixed-latent now" in mnistgen(folder, "sample", "walker", *flags)
    assert "needs values" in mnistgen(folder, "draw", "sweep", "walker", "steps", code=2)
