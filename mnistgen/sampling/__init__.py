"""Seeded sampling, one seed an image, and the pictures made of samples."""

from mnistgen.mosaic import show_samples
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
from mnistgen.sampling.pictures import captioned, gif, grid, require_pixels, save_gif, save_png
from mnistgen.sampling.sampler import BATCH, sample, sample_batches
from mnistgen.sampling.trajectories import evenly, fixed_latent, sample_trajectory, sweep

show_samples()

__all__ = [
    "BATCH",
    "REGIONS",
    "captioned",
    "coder_of",
    "decoder_of",
    "editor_of",
    "evenly",
    "fixed_latent",
    "gif",
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
    "sample",
    "sample_batches",
    "sample_trajectory",
    "save_gif",
    "save_png",
    "slerp",
    "sweep",
    "traverse",
    "traverse_coordinate",
    "vary",
]
