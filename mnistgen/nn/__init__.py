"""Networks and distributions that two or more plugins share; each is a formula with shapes."""

import importlib
import warnings
from typing import Any

from mnistgen.nn.adversarial import Projection, ResidualDiscriminator, ResidualGenerator, score_and_gradient
from mnistgen.nn.attention import CausalAttention, CausalBlock, KeyValueCache
from mnistgen.nn.autoencoder import ImageDecoder, ImageEncoder, Upsampler
from mnistgen.nn.blocks import ClassEmbedding, ResidualBlock
from mnistgen.nn.couplings import AffineCoupling, FlowSequence, checkerboard, log_normal
from mnistgen.nn.dequantisation import dequantise, from_logits, quantise, to_logits
from mnistgen.nn.levels import GreyLevels, calibrated_edges
from mnistgen.nn.likelihoods import LIKELIHOODS, Likelihood, LikelihoodName
from mnistgen.nn.masked import MaskedConv2d
from mnistgen.nn.muon import Muon
from mnistgen.nn.precision import computes_in_bfloat16

__all__ = [
    "LIKELIHOODS",
    "AffineCoupling",
    "CausalAttention",
    "CausalBlock",
    "ClassEmbedding",
    "FlowSequence",
    "GreyLevels",
    "ImageDecoder",
    "ImageEncoder",
    "KeyValueCache",
    "Likelihood",
    "LikelihoodName",
    "MaskedConv2d",
    "Muon",
    "Projection",
    "ResidualBlock",
    "ResidualDiscriminator",
    "ResidualGenerator",
    "Upsampler",
    "calibrated_edges",
    "checkerboard",
    "computes_in_bfloat16",
    "dequantise",
    "from_logits",
    "log_normal",
    "quantise",
    "score_and_gradient",
    "to_logits",
]

_MOVED = ("PIXEL_STD", "PixelSpace", "UNet")  # to the family that alone uses them


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"mnistgen.nn.{name} is mnistgen_plugins.diffusion.{name} now.", DeprecationWarning, stacklevel=2)
    return getattr(importlib.import_module("mnistgen_plugins.diffusion"), name)
