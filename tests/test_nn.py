"""The shared blocks."""

import pytest
import torch

from mnistgen.nn import ClassEmbedding, ResidualBlock


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
