"""The shared blocks."""

import pytest
import torch
from torch import Tensor, nn

from mnistgen.nn import ClassEmbedding, GreyLevels, ResidualBlock
from mnistgen.nn.muon import Muon, orthogonal


def test_class_embedding_of_one_hot_weights_is_that_of_the_label() -> None:
    embedding = ClassEmbedding(5, 8)
    y = torch.tensor([0, 4, 2])
    torch.testing.assert_close(embedding(torch.eye(5)[y]), embedding(y))


def test_class_embedding_is_linear_in_the_weights() -> None:
    embedding = ClassEmbedding(3, 8)
    mixed = embedding(torch.tensor([[0.25, 0.75, 0.0]]))
    torch.testing.assert_close(mixed[0], 0.25 * embedding.weight[0] + 0.75 * embedding.weight[1])


def test_class_embedding_takes_weights_of_another_precision() -> None:
    assert ClassEmbedding(3, 8)(torch.eye(3, dtype=torch.float64)).dtype == torch.float32


@pytest.mark.parametrize("embedding_dim", [0, 6])
def test_residual_block_begins_as_the_identity(embedding_dim: int) -> None:
    block = ResidualBlock(4, embedding_dim)
    x = torch.randn(2, 4, 7, 7)
    assert torch.equal(block(x, torch.randn(2, embedding_dim) if embedding_dim else None), x)


def test_residual_block_is_steered_by_its_embedding() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(4, 6)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(1, 4, 7, 7)
    assert not torch.allclose(block(x, torch.zeros(1, 6)), block(x, torch.ones(1, 6)))


def test_residual_block_treats_every_image_alone() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(4, 6)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, e = torch.randn(3, 4, 7, 7), torch.randn(3, 6)
    torch.testing.assert_close(block(x, e)[1:2], block(x[1:2], e[1:2]))


def test_an_orthogonal_matrix_is_near_that_of_the_decomposition() -> None:
    torch.manual_seed(0)
    for shape in ((20, 50), (50, 20), (32, 32)):
        matrix = torch.randn(shape)
        U, _, Vh = torch.linalg.svd(matrix, full_matrices=False)
        made = orthogonal(matrix)
        assert made.shape == matrix.shape
        singular = torch.linalg.svdvals(made)
        assert 0.5 < float(singular.min()) <= float(singular.max()) < 1.3
        assert float((made * (U @ Vh)).sum() / (made.norm() * (U @ Vh).norm())) > 0.97


def test_muon_steps_have_the_length_of_the_learning_rate() -> None:
    """In the spectral norm, whatever the size of the gradient; what is not hidden is stepped as Adam does it."""
    torch.manual_seed(0)
    hidden, other = nn.Parameter(torch.zeros(16, 4, 3, 3)), nn.Parameter(torch.zeros(7))
    twin = nn.Parameter(torch.zeros(7))
    muon = Muon([hidden], [other], lr=0.1, matrix_lr=0.5)
    adam = torch.optim.Adam([twin], lr=0.1, betas=(0.9, 0.99))
    for size in (1e-4, 1.0, 1e4):
        before = hidden.detach().clone()
        hidden.grad = size * torch.randn_like(hidden)
        other.grad = size * torch.randn_like(other)
        twin.grad = other.grad.clone()
        muon.step()
        adam.step()
        change = torch.linalg.svdvals((hidden.detach() - before).flatten(1))
        assert 0.5 * 0.5 < float(change.min()) <= float(change.max()) < 0.5 * 1.3
        assert torch.allclose(other, twin, rtol=1e-4, atol=1e-6)


def test_muon_goes_on_as_if_nothing_had_happened() -> None:
    def run(stop: int) -> Tensor:
        torch.manual_seed(0)
        model = nn.Linear(5, 5)
        target = torch.randn(8, 5)
        x = torch.randn(8, 5)
        muon = Muon([model.weight], [model.bias], lr=0.05, matrix_lr=0.1)
        for step in range(6):
            if step == stop:
                state = muon.state_dict()
                muon = Muon([model.weight], [model.bias], lr=0.05, matrix_lr=0.1)
                muon.load_state_dict(state)
            muon.zero_grad()
            (model(x) - target).square().mean().backward()
            muon.step()
        return model.weight.detach()

    assert torch.equal(run(3), run(99))


def test_grey_levels_are_those_of_rounding_until_they_are_calibrated() -> None:
    x = 2 * torch.rand(2000, generator=torch.Generator().manual_seed(0)) - 1
    assert torch.equal(GreyLevels().decode(x), ((x + 1) * 127.5).round() / 127.5 - 1)


def test_calibrated_levels_are_as_frequent_as_those_of_the_images_and_in_order() -> None:
    images = torch.tensor([0, 0, 0, 0, 0, 100, 100, 255], dtype=torch.uint8).reshape(2, 1, 2, 2)
    levels, x = GreyLevels(), torch.rand(8000, generator=torch.Generator().manual_seed(0)).square() - 0.9
    levels.calibrate(x, images)
    found = ((levels.decode(x) + 1) * 127.5).round().long()
    assert torch.bincount(found, minlength=256).nonzero().flatten().tolist() == [0, 100, 255]
    assert torch.bincount(found, minlength=256)[[0, 100, 255]].tolist() == [5000, 2000, 1000]
    assert bool((found[x.argsort()].diff() >= 0).all())


def test_equal_numbers_are_of_one_level() -> None:
    """Of a network that gives exact black too often, all of it stays black."""
    images = torch.tensor([0, 0, 90, 255], dtype=torch.uint8).reshape(1, 1, 2, 2)
    levels = GreyLevels()
    levels.calibrate(torch.tensor([-1.0, -1.0, -1.0, 0.5]), images)
    assert torch.equal(levels.decode(torch.tensor([-1.0, 0.5])), torch.tensor([-1.0, 1.0]))


def test_weights_from_before_there_were_grey_levels_still_load() -> None:
    levels = nn.Sequential(GreyLevels())
    levels.load_state_dict({})
    assert torch.equal(levels[0].edges, GreyLevels().edges)
