"""Seeded sampling, one seed an image, and the pictures made of samples."""

from mnistgen.sampling.draw import BATCH, sample, sample_batches
from mnistgen.sampling.edits import REGIONS, editor_of, inpaint, region, vary
from mnistgen.sampling.latents import (
    coder_of,
    decoder_of,
    interpolate,
    interpolate_images,
    manifold,
    reconstruct,
    reconstructions,
    reconstructor_of,
    slerp,
    traverse,
    traverse_coordinate,
)
from mnistgen.sampling.likelihood import log_likelihood
from mnistgen.sampling.paths import evenly, same_noise, sample_path, sweep
from mnistgen.sampling.pictures import captioned, grid, require_pixels, save_gif, save_png

__all__ = [
    "BATCH",
    "REGIONS",
    "captioned",
    "coder_of",
    "decoder_of",
    "editor_of",
    "evenly",
    "grid",
    "inpaint",
    "interpolate",
    "interpolate_images",
    "log_likelihood",
    "manifold",
    "reconstruct",
    "reconstructions",
    "reconstructor_of",
    "region",
    "require_pixels",
    "same_noise",
    "sample",
    "sample_batches",
    "sample_path",
    "save_gif",
    "save_png",
    "slerp",
    "sweep",
    "traverse",
    "traverse_coordinate",
    "vary",
]
