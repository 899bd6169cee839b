"""Networks and distributions that two or more plugins share; each is a formula with shapes."""

from mnistgen.nn.adversarial import Projection, ResidualDiscriminator, ResidualGenerator, score_and_gradient
from mnistgen.nn.attention import CausalAttention, CausalBlock, KeyValueCache
from mnistgen.nn.autoencoder import ImageDecoder, ImageEncoder, Upsampler
from mnistgen.nn.blocks import ClassEmbedding, ResidualBlock
from mnistgen.nn.couplings import AffineCoupling, FlowSequence, checkerboard, log_normal
from mnistgen.nn.dequantisation import dequantise, from_logits, quantise, to_logits
from mnistgen.nn.likelihoods import LIKELIHOODS, Likelihood, LikelihoodName
from mnistgen.nn.masked import MaskedConv2d
from mnistgen.nn.muon import Muon
from mnistgen.nn.pixels import PIXEL_STD, PixelSpace
from mnistgen.nn.precision import computes_in_bfloat16
from mnistgen.nn.unet import UNet

__all__ = [
    "LIKELIHOODS",
    "PIXEL_STD",
    "AffineCoupling",
    "CausalAttention",
    "CausalBlock",
    "ClassEmbedding",
    "FlowSequence",
    "ImageDecoder",
    "ImageEncoder",
    "KeyValueCache",
    "Likelihood",
    "LikelihoodName",
    "MaskedConv2d",
    "Muon",
    "PixelSpace",
    "Projection",
    "ResidualBlock",
    "ResidualDiscriminator",
    "ResidualGenerator",
    "UNet",
    "Upsampler",
    "checkerboard",
    "computes_in_bfloat16",
    "dequantise",
    "from_logits",
    "log_normal",
    "quantise",
    "score_and_gradient",
    "to_logits",
]
