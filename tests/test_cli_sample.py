"""`mnistgen sample` as a user meets it."""

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from command import mnistgen
from PIL import Image
from safetensors.torch import load_file
from tiny import Duel, Tiny, TinyConfig, Walker, blobs
from torch import Tensor
from typing_extensions import Doc

from mnistgen import Dataset, Noise, UsageError, load_data, registry, sample, save
from mnistgen.checkpoint import Checkpoint
from mnistgen.cli.sample import EXAMPLES, parse_with_sampling_options
from mnistgen.cli.sample_bulk import labels_of_bulk, spread, write_bulk
from mnistgen.cli.sample_pictures import SampleOptions, draw_picture
from mnistgen.data import to_float
from mnistgen.room import Peak
from mnistgen.sampling import (
    fixed_latent,
    inpaint,
    manifold,
    reconstruct,
    region,
    sample_trajectory,
    sweep,
    traverse_coordinate,
)
from mnistgen.sampling.options import digits_of, option_help
from mnistgen.scoring.reference import class_counts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints/tiny-blobs and checkpoints/duel, as the registered models write them."""
    path = tmp_path_factory.mktemp("sample")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        for name, cls in (("tiny", Tiny), ("duel", Duel), ("walker", Walker)):
            entry = registry.Entry(name, "tiny-models", "1.0", f"tiny:{cls.__name__}")
            patch.setattr(registry, "entry_of", lambda _, entry=entry: entry)
            save(path / "checkpoints" / name, cls(TinyConfig(), num_classes=4))
        patch.setattr(registry, "entry_of", lambda _: registry.Entry("tiny", "tiny-models", "1.0", "tiny:Tiny"))
        save(path / "flat", Tiny(TinyConfig(latent_dim=2), num_classes=4), dataset=blobs(name="my-blobs"))
    data = blobs(400, seed=7)
    np.savez(
        path / "blobs.npz",
        x_train=data.images[40:],
        y_train=data.labels[40:],
        x_test=data.images[:40],
        y_test=data.labels[:40],
    )
    return path


def pixels(path: Path) -> np.ndarray:
    picture = Image.open(path)
    if "Grid" in picture.info:  # without the captions
        picture = picture.crop(tuple(map(int, picture.info["Grid"].split())))
    return np.asarray(picture)[::2, ::2]


def test_a_grid_of_digits(folder: Path) -> None:
    text = mnistgen(folder, "sample", "tiny", "--digits", "0-3", "--per-digit", "5", "--seed", "3", "--out", "grid.png")
    assert "picture: grid.png" in text
    picture = pixels(folder / "grid.png")
    assert picture.shape == (4 * 30, 5 * 30)
    torch.manual_seed(0)
    images = sample(Tiny(TinyConfig(), 4), torch.arange(4).repeat_interleave(5), seed=3)
    assert np.abs(picture[31:59, 1:29].astype(int) - images[5, 0].numpy()).max() <= 1
    info = Image.open(folder / "grid.png").info
    assert info["Source"].startswith("mnistgen sample tiny --digits 0-3")
    assert info["Seed"] == "3"
    assert json.loads(info["Checkpoint"])["model"] == "tiny"


def test_digits_run_together_are_a_row(folder: Path) -> None:
    mnistgen(folder, "sample", "tiny", "--digits", "3013", "--out", "row.png")
    assert pixels(folder / "row.png").shape == (30, 4 * 30)
    mnistgen(folder, "sample", "tiny", "--digits", "1,3", "--per-digit", "2", "--out", "list.png")
    assert pixels(folder / "list.png").shape == (2 * 30, 2 * 30)
    mnistgen(folder, "sample", "checkpoints/tiny/model.safetensors", "--digits", "2", "--out", "two.png")
    assert pixels(folder / "two.png").shape == (30, 10 * 30)


def test_bulk_data_has_labels_and_provenance_and_can_be_trained_on(folder: Path) -> None:
    mnistgen(folder, "sample", "tiny", "--count", "42", "--seed", "5", "--out", "bulk.npz")
    mnistgen(folder, "sample", "tiny", "--count", "42", "--seed", "5", "--out", "bulk", "--batch-size", "5")
    file, tree = load_data(folder / "bulk.npz"), load_data(folder / "bulk")
    assert file.labels.tolist() == [i % 4 for i in range(42)]
    assert tree.labels.bincount().tolist() == file.labels.bincount().tolist() == [11, 11, 10, 10]
    order = tree.labels.argsort(stable=True)
    assert torch.equal(tree.labels[order], file.labels.sort().values)
    assert (folder / "bulk" / "provenance.json").exists()
    with np.load(folder / "bulk.npz", allow_pickle=False) as arrays:
        assert json.loads(json.loads(str(arrays["provenance"]))["Checkpoint"])["model"] == "tiny"
    assert "exists already" in mnistgen(folder, "sample", "tiny", "--count", "4", "--out", "bulk", code=1)


def test_bulk_data_on_standard_output(folder: Path) -> None:
    text = mnistgen(folder, "sample", "tiny", "--count", "7", "--out", "-", "--format", "csv")
    assert text.startswith("label,pixel0,pixel1,")
    assert "7 labelled images, the classes in turn: -" in text
    assert "say in which form with --format" in mnistgen(folder, "sample", "tiny", "--count", "7", "--out", "-", code=2)
    assert "--out -" in mnistgen(folder, "sample", "tiny", "--out", "-", code=2)
    assert not (folder / "-").exists()


def options(**values: Any) -> SampleOptions:
    return SampleOptions(source="tiny", **values)


class TestBulk:
    model = Tiny(TinyConfig(), 10)
    about = Checkpoint(config={}, num_classes=10, dataset="mnist")
    counts = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)  # of MNIST's test set

    def labels(self, about: Checkpoint = about, **values: Any) -> tuple[Tensor, str]:
        labels, said = labels_of_bulk(options(**values), self.model, about)
        count = values["count"]
        return torch.cat([labels(start, min(start + 300, count)) for start in range(0, count, 300)]), said

    def test_as_many_as_a_score_compares_with_have_the_class_counts_of_the_test_set(self) -> None:
        labels, said = self.labels(count=10_000)
        assert labels.bincount().tolist() == list(self.counts)
        assert said == "of each class as many as mnist tests"
        shares = torch.tensor(self.counts) / 100  # of the first hundred, too, but for a few
        assert (labels[:100].bincount(minlength=10) - shares).abs().max() <= 3
        assert self.labels(count=1000, class_counts="test")[0].bincount().tolist() == class_counts(labels, 1000)
        few, _ = self.labels(count=50, class_counts="test", digits="3,5")
        assert few.bincount(minlength=10).nonzero().flatten().tolist() == [3, 5]

    def test_others_have_the_classes_in_turn(self) -> None:
        for values in ({"count": 10_000, "class_counts": "equal"}, {"count": 9999}, {"count": 10_000, "digits": "0-9"}):
            labels, said = self.labels(**values)
            assert labels.tolist() == [i % 10 for i in range(values["count"])]
            assert said == "the classes in turn"
        mine = replace(self.about, dataset="my-own-npz")
        assert self.labels(mine, count=10_000)[1] == "the classes in turn"
        with pytest.raises(UsageError, match="the test set of my-own-npz is not known here; give --class-counts equal"):
            self.labels(mine, count=10_000, class_counts="test")

    def test_a_model_of_some_classes_draws_those_and_one_without_labels_writes_none(self, tmp_path: Path) -> None:
        some, none = Tiny(TinyConfig(), 4), Tiny(TinyConfig(), 1)
        some.trained_classes, some.class_names = (1, 3), ("a", "b", "c", "d")
        none.trained_classes = ()
        for model, name in ((some, "some"), (none, "none"), (Duel(TinyConfig(), 4), "duel")):
            flags = options(count=12, out=tmp_path / f"{name}.npz")
            write_bulk(model, self.about, flags, {}, name=name, default=Path(), provenance={})
        drawn = load_data(tmp_path / "some.npz")
        assert drawn.labels is not None
        assert drawn.labels.tolist() == [1, 3] * 6
        assert drawn.class_names == ("a", "b", "c", "d")
        assert load_data(tmp_path / "none.npz").labels is None
        assert load_data(tmp_path / "duel.npz").labels is None
        picture = draw_picture(some, self.about, options(), {}, moving=False)
        assert (picture.frames[0].shape, list(picture.rows)) == ((2 * 30, 10 * 30), ["b", "d"])
        picture = draw_picture(none, self.about, options(), {}, moving=False)
        assert (picture.frames[0].shape, list(picture.rows)) == ((10 * 30, 10 * 30), [])
        assert len(picture.frames[0].unfold(0, 30, 30).unfold(1, 30, 30).flatten(0, 1).unique(dim=0)) == 100

    @pytest.mark.parametrize("counts", [[1], [0, 3], [5, 0, 1, 7], [100, 1, 0, 899]])
    def test_a_spread_row_has_just_these_counts(self, counts: list[int]) -> None:
        n = sum(counts)
        whole = spread(counts, 0, n)
        assert whole.bincount(minlength=len(counts)).tolist() == counts
        assert torch.equal(torch.cat([spread(counts, k, min(k + 7, n)) for k in range(0, n, 7)]), whole)

    def test_no_more_than_a_piece_is_in_memory(self, tmp_path: Path) -> None:
        peaks = []
        for count in (100, 500):
            flags = options(count=count, quiet=True, batch_size=50, out=tmp_path / f"{count}.npz")
            with Peak() as peak:
                write_bulk(self.model, self.about, flags, {}, name="d", default=Path(), provenance={})
            peaks.append(peak.most)
        assert peaks[0] == peaks[1]
        expected = sample(self.model, torch.arange(500) % 10, batch_size=50)
        assert torch.equal(load_data(tmp_path / "500.npz").images, expected)


def test_latent_pictures_and_the_models_own_options(folder: Path) -> None:
    assert "interpolate-0-3-seed0.png" in mnistgen(folder, "sample", "tiny", "--interpolate", "0", "3")
    assert pixels(folder / "samples" / "tiny" / "interpolate-0-3-seed0.png").shape == (8 * 30, 10 * 30)
    mnistgen(folder, "sample", "tiny", "--traverse", "--digits", "2", "--out", "traverse.png")
    assert pixels(folder / "traverse.png").shape == (3 * 30, 11 * 30)
    mnistgen(folder, "sample", "tiny", "--temperature", "0", "--per-digit", "2", "--digits", "1", "--out", "cold.png")
    cold = pixels(folder / "cold.png")
    assert np.array_equal(cold[:, :30], cold[:, 30:])
    assert "--temperature" in mnistgen(folder, "sample", "tiny", "--help")
    assert "no latent codes" in mnistgen(folder, "sample", "duel", "--interpolate", "0", "1", code=2)


def cells(path: Path, padding: int = 2) -> np.ndarray:
    """The images of a picture: (rows, columns, 28, 28) int."""
    picture = pixels(path).astype(int)
    side, edge = 28 + padding, padding // 2
    cut = picture.reshape(picture.shape[0] // side, side, picture.shape[1] // side, side).swapaxes(1, 2)
    return cut[:, :, edge : edge + 28, edge : edge + 28]


def test_walks_between_given_images(folder: Path) -> None:
    text = mnistgen(folder, "sample", "tiny", "--between", "3", "8", "39", "0", "--data", "blobs.npz")
    assert "between-blobs-npz-test-3-8-39-0.png" in text
    data = load_data(folder / "blobs.npz", "test")
    rows = cells(folder / "samples" / "tiny" / "between-blobs-npz-test-3-8-39-0.png")
    assert rows.shape[:2] == (2, 12)
    assert np.array_equal(rows[:, [0, -1]], data.images[torch.tensor([[3, 8], [39, 0]])].squeeze(2).numpy())
    flags = ("--data", "blobs.npz", "--split", "train", "--out", "train.png")
    mnistgen(folder, "sample", "tiny", "--between", "3", "8", *flags)
    train = load_data(folder / "blobs.npz", "train")
    assert np.array_equal(cells(folder / "train.png")[0, 0], train.images[3, 0].numpy())
    info = Image.open(folder / "train.png").info
    assert info["Source"] == f"mnistgen sample tiny --between 3 8 {' '.join(flags)}"
    text = mnistgen(folder, "sample", "tiny", "--between", "3", "40", "--data", "blobs.npz", code=2)
    assert "images 0 to 39, and no 40" in text


def test_test_images_above_their_reconstructions(folder: Path) -> None:
    flags = ("--data", "blobs.npz", "--digits", "2,0,1", "--per-digit", "2", "--out", "rec.png")
    mnistgen(folder, "sample", "tiny", "--reconstruct", *flags)
    data = load_data(folder / "blobs.npz", "test")
    rows = cells(folder / "rec.png")
    assert rows.shape[:2] == (4, 3)
    places = torch.tensor([2, 0, 1, 6, 4, 5])  # the labels are 0, 1, 2, 3, 0, 1, ...
    assert np.array_equal(rows[::2].reshape(6, 28, 28), data.images[places, 0].numpy())
    torch.manual_seed(0)
    made = reconstruct(Tiny(TinyConfig(), 4), to_float(data.images[places]), data.labels[places])
    assert np.abs(rows[1::2].reshape(6, 28, 28) - made[:, 0].numpy()).max() <= 1
    mnistgen(folder, "sample", "tiny", "--reconstruct", "--data", "blobs.npz")
    assert cells(folder / "samples" / "tiny" / "reconstructions-blobs-npz-test.png").shape[:2] == (8, 4)
    text = mnistgen(folder, "sample", "tiny", "--reconstruct", "--data", "blobs.npz", "--per-digit", "11", code=2)
    assert "has 10 images of class 0, and 11 are needed" in text


def test_a_manifold_and_one_coordinate(folder: Path) -> None:
    mnistgen(folder, "sample", "flat", "--manifold", "--digits", "3")
    shown = cells(folder / "samples" / "flat" / "manifold-3.png", padding=0)
    assert np.abs(shown.reshape(400, 28, 28) - manifold(load_flat(folder), 3)[:, 0].numpy()).max() <= 1
    assert "train one that has" in mnistgen(folder, "sample", "tiny", "--manifold", code=2)
    mnistgen(folder, "sample", "flat", "--traverse", "--coordinate", "1", "--seed", "4")
    shown = cells(folder / "samples" / "flat" / "traverse-coordinate-1-seed4.png")
    assert shown.shape[:2] == (4, 11)
    expected = traverse_coordinate(load_flat(folder), 1, range(4), seed=4)
    assert np.abs(shown.reshape(44, 28, 28) - expected[:, 0].numpy()).max() <= 1
    assert "no coordinate 2" in mnistgen(folder, "sample", "flat", "--traverse", "--coordinate", "2", code=2)


def load_flat(folder: Path) -> Tiny:
    model = Tiny(TinyConfig(latent_dim=2), num_classes=4)
    model.load_state_dict(load_file(folder / "flat" / "model.safetensors"))
    return model


def test_the_trajectory_from_noise_to_digit(folder: Path) -> None:
    text = mnistgen(folder, "sample", "walker", "--trajectory", "--steps", "30", "--digits", "1,2", "--per-digit", "2")
    assert "trajectory-seed0.png" in text
    rows = cells(folder / "samples" / "walker" / "trajectory-seed0.png")
    assert rows.shape[:2] == (4, 12)
    expected = sample_trajectory(load_walker(folder), [1, 1, 2, 2], frames=12, steps=30)
    assert np.abs(rows - expected[:, :, 0].transpose(0, 1).numpy()).max() <= 1
    mnistgen(folder, "sample", "walker", "--trajectory", "--per-digit", "3", "--seed", "2", "--out", "path.gif")
    with Image.open(folder / "path.gif") as film:
        assert film.n_frames == 4
        assert film.size[0] == 2 * 3 * 30
        assert 0 < film.size[1] - 2 * 4 * 30 < 40  # a line that says which step
        assert "Seed: 2" in film.info["comment"].decode()
    assert "generates an image in one step" in mnistgen(folder, "sample", "duel", "--trajectory", code=2)
    assert "or a .gif of a trajectory" in mnistgen(folder, "sample", "walker", "--out", "still.gif", code=2)
    assert not (folder / "still.gif").exists()


def test_one_step_is_no_trajectory(folder: Path) -> None:
    text = mnistgen(folder, "sample", "walker", "--trajectory", "--steps", "1", code=2)
    assert "in one step, so there is no trajectory; --steps 8 takes more" in text


def test_captions_and_none(folder: Path) -> None:
    for flags in ([], ["--plain"]):
        mnistgen(folder, "sample", "tiny", "--interpolate", "0", "3", "--out", "words.png", *flags)
        picture = Image.open(folder / "words.png")
        left, top, right, bottom = map(int, picture.info["Grid"].split())
        assert (right - left, bottom - top) == (2 * 10 * 30, 2 * 8 * 30)
        assert (picture.size == (right - left, bottom - top)) == bool(flags)
    text = mnistgen(folder, "sample", "tiny", "--scale", "1000000", code=2)
    assert "larger than what Pillow and most viewers open" in text
    text = mnistgen(folder, "sample", "tiny", "--count", "999999999999", "--out", "grid.png", code=2)
    assert "larger than what Pillow and most viewers open" in text


class Documented(Tiny):
    def sample(
        self, y: Tensor, *, noise: Noise, steps: int = 2, speed: Annotated[float, Doc("How fast it goes.")] = 1.0
    ) -> Tensor:
        """Draw.

        Args:
            steps: How many of
                them there are.
        """
        return super().sample(y, noise=noise)


class Heir(Documented):
    def sample(self, y: Tensor, *, noise: Noise, steps: int = 3, speed: float = 2.0) -> Tensor:
        return super().sample(y, noise=noise, steps=steps, speed=speed)


def test_the_docstring_of_sample_is_the_help_of_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert option_help(Documented) == option_help(Heir) == {"steps": "How many of them there are."}
    with pytest.raises(SystemExit):
        parse_with_sampling_options(
            SampleOptions, Documented(TinyConfig()), ["tiny", "--help"], "mnistgen sample", EXAMPLES
        )
    text = capsys.readouterr().out
    assert "How many of them there are. (default: 2)" in text
    assert "How fast it goes. (default: 1.0)" in text


@pytest.mark.parametrize("name", registry.list_models())
def test_every_sampling_option_of_a_shipped_model_has_help(name: str) -> None:
    cls = registry.model_class(name)
    sampling = [p.name for p in inspect.signature(cls.sample).parameters.values() if p.default is not p.empty]
    assert set(sampling) <= set(option_help(cls))


def test_a_fixed_latent_with_other_options_and_labels(folder: Path) -> None:
    walker = load_walker(folder)
    mnistgen(folder, "sample", "walker", "--sweep", "steps", "1", "2", "5", "--digits", "3,0", "--seed", "4")
    rows = cells(folder / "samples" / "walker" / "sweep-steps-seed4.png")
    expected = sweep(walker, [3, 0], "steps", [1, 2, 5], seed=4).unflatten(0, (2, 3))
    assert np.abs(rows - expected[:, :, 0].numpy()).max() <= 1
    mnistgen(folder, "sample", "walker", "--sweep", "bright", "False", "True", "--out", "bright.png")
    rows = cells(folder / "bright.png")
    assert (rows[:, 1] >= 127).all()
    assert (rows[:, 0] < 120).any()
    mnistgen(folder, "sample", "walker", "--fixed-latent", "--per-digit", "3", "--steps", "1")
    rows = cells(folder / "samples" / "walker" / "fixed-latent-seed0.png")
    expected = fixed_latent(walker, range(4), rows=3, steps=1).unflatten(0, (3, 4))
    assert np.abs(rows - expected[:, :, 0].numpy()).max() <= 1
    assert "it has steps, bright" in mnistgen(folder, "sample", "walker", "--sweep", "stride", "1", "2", code=2)
    assert "it has none" in mnistgen(folder, "sample", "duel", "--sweep", "steps", "1", "2", code=2)
    assert "of the kind int" in mnistgen(folder, "sample", "walker", "--sweep", "steps", "1", "many", code=2)
    assert "of the kind bool" in mnistgen(folder, "sample", "walker", "--sweep", "bright", "maybe", code=2)
    assert "needs values" in mnistgen(folder, "sample", "walker", "--sweep", "steps", code=2)


def test_edits_of_test_images(folder: Path) -> None:
    data = load_data(folder / "blobs.npz", "test")
    flags = ("--data", "blobs.npz", "--digits", "2,0")
    mnistgen(folder, "sample", "walker", "--inpaint", "left", *flags, "--per-digit", "3")
    rows = cells(folder / "samples" / "walker" / "inpaint-left-blobs-npz-test-seed0.png")
    assert rows.shape[:2] == (5, 2)
    originals = data.images[[2, 0], 0].numpy()
    assert np.array_equal(rows[0], originals)
    assert (rows[1, :, :, :14] == 80).all()
    assert (rows[1:, :, :, 14:] == originals[:, :, 14:]).all()
    again = inpaint(load_walker(folder), to_float(data.images[[2, 0] * 3]), [2, 0] * 3, region("left"))
    assert np.abs(rows[2:].reshape(6, 28, 28) - again[:, 0].numpy()).max() <= 1
    mnistgen(folder, "sample", "walker", "--vary", "0", "0.5", "1", *flags, "--seed", "9")
    rows = cells(folder / "samples" / "walker" / "vary-blobs-npz-test-seed9.png")
    assert rows.shape[:2] == (7, 2)
    assert (rows[:3] == originals).all()
    new = sample(load_walker(folder), [2, 0, 2, 0], seed=9)
    assert np.abs(rows[5:].reshape(4, 28, 28) - new[:, 0].numpy()).max() <= 1
    for flag in (["--inpaint", "top"], ["--vary", "0.5"]):
        assert "cannot edit" in mnistgen(folder, "sample", "tiny", *flag, "--data", "missing.npz", code=2)


def load_walker(folder: Path) -> Walker:
    model = Walker(TinyConfig(), num_classes=4)
    model.load_state_dict(load_file(folder / "checkpoints" / "walker" / "model.safetensors"))
    return model


def test_whose_images(folder: Path) -> None:
    """The dataset of the checkpoint, with as many classes; nothing is looked for where there are no codes."""
    text = mnistgen(folder, "sample", "flat", "--reconstruct", code=2)
    assert "my-blobs, a custom dataset: name its path with --data" in text
    np.savez(folder / "two.npz", images=np.arange(6272).reshape(8, 28, 28).astype(np.uint8), labels=np.arange(8) % 2)
    assert "no test split" in mnistgen(folder, "sample", "flat", "--reconstruct", "--data", "two.npz", code=1)
    for flag in (["--reconstruct"], ["--between", "0", "1"]):
        text = mnistgen(folder, "sample", "flat", *flag, "--data", "two.npz", "--split", "all", code=2)
        assert "two-npz has 2 classes, and the checkpoint knows 4" in text
        text = mnistgen(folder, "sample", "duel", *flag, "--data", "missing.npz", code=2)
        assert "no latent codes of given images" in text


def test_the_images_of_the_checkpoints_dataset_are_found(mnist: Dataset, tmp_path: Path) -> None:
    """Without --data, MNIST's test images, with the classes of MNIST."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "entry_of", lambda _: registry.Entry("tiny", "tiny-models", "1.0", "tiny:Tiny"))
        save(tmp_path / "ten", Tiny(TinyConfig()), dataset=mnist)
    mnistgen(tmp_path, "sample", "ten", "--between", "0", "9999")
    test = load_data("mnist", "test", download=False)
    rows = cells(tmp_path / "samples" / "ten" / "between-mnist-test-0-9999.png")
    assert np.array_equal(rows[0, [0, -1]], test.images[[0, 9999], 0].numpy())


def test_wrong_usage(folder: Path) -> None:
    assert "Did you mean 'tiny'" in mnistgen(folder, "sample", "tinny", code=2)
    words = mnistgen(folder, "sample", "qqqq", code=2).rpartition("There is ")[2].split()
    assert {"duel", "tiny", "vae-mnist", "walker"} <= {word.strip(",.") for word in words}
    assert "names no classes" in mnistgen(folder, "sample", "tiny", "--digits", "0-9", code=2)
    assert "names no classes" in mnistgen(folder, "sample", "tiny", "--digits", "x", code=2)
    assert "--temperature" in mnistgen(folder, "sample", "tiny", "--temperatur", "1", code=2)
    assert "count is 0" in mnistgen(folder, "sample", "tiny", "--count", "0", code=2)
    assert "give one of them" in mnistgen(folder, "sample", "tiny", "--count", "5", "--traverse", code=2)
    assert "--between" in mnistgen(folder, "sample", "tiny", "--between", "1", code=2)
    assert ".png" in mnistgen(folder, "sample", "tiny", "--out", "grid.jpg", code=2)
    assert "data in bulk" in mnistgen(folder, "sample", "tiny", "--count", "3", "--out", "a.txt", code=2)
    (folder / "file").write_text("")
    assert "cannot be written" in mnistgen(folder, "sample", "tiny", "--out", "file/grid.png", code=1)
    assert "cannot be used here" in mnistgen(folder, "sample", "tiny", "--device", "quantum", code=2)


def test_flags_that_do_not_go_together() -> None:
    with pytest.raises(UsageError, match="--interpolate and --manifold and --reconstruct make different things"):
        SampleOptions(source="tiny", interpolate=(0, 1), manifold=True, reconstruct=True)
    with pytest.raises(UsageError, match="--count and --between make different things"):
        SampleOptions(source="tiny", count=3, between=((0, 1),))
    with pytest.raises(UsageError, match="give --traverse, too"):
        SampleOptions(source="tiny", coordinate=0)
    with pytest.raises(UsageError, match="--data says whose images --between, --reconstruct, --inpaint, --vary take"):
        SampleOptions(source="tiny", data="mnist", traverse=True)


def test_digits_in_any_number() -> None:
    assert digits_of("31" * 2500, Tiny(TinyConfig(), 4)) == ([3, 1] * 2500, True)
    assert digits_of("12", Tiny(TinyConfig(), 26)) == ([12], False)
    for text in ("9" * 5000, "0-" + "9" * 5000, "1," + "9" * 5000, "0-999999999", "3-1", "0-10", "\u0664", "1,,2"):
        with pytest.raises(UsageError, match=r"^--digits '.{1,60}' names no classes of this model"):
            digits_of(text, Tiny(TinyConfig(), 9))
    assert digits_of("0-9", Tiny(TinyConfig(), 10)) == (list(range(10)), False)
