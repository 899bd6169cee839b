"""Networks and distributions that two or more plugins share; each is a formula with shapes."""

from mnistgen.nn.adversarial import Projection, ResidualDiscriminator, ResidualGenerator, score_and_gradient
from mnistgen.nn.autoencoder import ImageDecoder, ImageEncoder, Upsampler
from mnistgen.nn.blocks import ClassEmbedding, ResidualBlock
from mnistgen.nn.likelihoods import LIKELIHOODS, Likelihood, LikelihoodName

__all__ = [
    "LIKELIHOODS",
    "ClassEmbedding",
    "ImageDecoder",
    "ImageEncoder",
    "Likelihood",
    "LikelihoodName",
    "Projection",
    "ResidualBlock",
    "ResidualDiscriminator",
    "ResidualGenerator",
    "Upsampler",
    "score_and_gradient",
]
