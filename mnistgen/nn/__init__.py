"""Networks and distributions that two or more plugins share; each is a formula with shapes."""

from mnistgen.nn.adversarial import Projection, ResidualDiscriminator, ResidualGenerator, score_and_gradient
from mnistgen.nn.autoencoder import ImageDecoder, ImageEncoder, Upsampler
from mnistgen.nn.blocks import ClassEmbedding, ResidualBlock
from mnistgen.nn.likelihoods import LIKELIHOODS, Likelihood, LikelihoodName
from mnistgen.nn.muon import Muon
from mnistgen.nn.pixels import PIXEL_STD, PixelSpace
from mnistgen.nn.precision import computes_in_bfloat16
from mnistgen.nn.unet import UNet

__all__ = [
    "LIKELIHOODS",
    "PIXEL_STD",
    "ClassEmbedding",
    "ImageDecoder",
    "ImageEncoder",
    "Likelihood",
    "LikelihoodName",
    "Muon",
    "PixelSpace",
    "Projection",
    "ResidualBlock",
    "ResidualDiscriminator",
    "ResidualGenerator",
    "UNet",
    "Upsampler",
    "computes_in_bfloat16",
    "score_and_gradient",
]
