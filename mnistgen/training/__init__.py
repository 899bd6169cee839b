"""`fit`: one training loop for every family, as a generator that yields a Step after each step.

`loop` is the loop, `run` its state, `stepper` one step, `batches` the order of the images, `schedule` length and
learning rate, `device` where and in which arithmetic, `distributed` several processes.
"""

from mnistgen.training.batches import Part
from mnistgen.training.device import autocast_dtype, resolve_device
from mnistgen.training.distributed import process_group
from mnistgen.training.loop import fit, train
from mnistgen.training.run import Run, Step

__all__ = ["Part", "Run", "Step", "autocast_dtype", "fit", "process_group", "resolve_device", "train"]
