"""The base of the GANs: a generator of images from normal noise."""

from __future__ import annotations

from torch import Tensor, nn

from mnistgen import GenerativeModel, Noise
from mnistgen.model import HasDecoder


class GAN(GenerativeModel, HasDecoder):
    """A class-conditional generator G(z, y), z ~ N(0, I); a subclass sets `generator` and `latent_shape`."""

    family = "gan"
    conditional = True
    generator: nn.Module

    def validation_loss(self, x: Tensor, y: Tensor) -> Tensor | None:  # noqa: ARG002
        """None: what the networks play for is no measure of the samples."""
        return None

    def sample(self, y: Tensor, *, noise: Noise, truncation: float = 1.0) -> Tensor:
        """The image of z ~ N(0, I).

        Args:
            truncation: Factor on z; below 1 for safer and more alike images, 1 for the model's own distribution.
        """
        return self.decode(truncation * noise.normal(*self.latent_shape), y)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """G(z, y)."""
        images: Tensor = self.generator(z, y)
        return images
