"""Data in the MNIST format: 28x28 grayscale images of whole numbers from 0 to 255, with or without labels.

A `Dataset` is one uint8 tensor and one int64 tensor, whatever it was read from: the files of MNIST and its
relatives, IDX, CSV, NPZ, or a folder of images (`sources`, `readers`). What is not in the format is refused with
a `DataError` that says what was found, or converted where the caller asks (`convert`).
"""

from mnistgen.data.convert import ConversionKeywords, conversions
from mnistgen.data.dataset import Dataset, Images, as_dataset, to_float, to_uint8, train_validation_split
from mnistgen.data.export import FORMATS, STDOUT, ImageStream, export_data
from mnistgen.data.families import DIGITS
from mnistgen.data.loading import (
    available_splits,
    data_folder,
    dataset_name,
    is_picture,
    load_data,
    load_images,
    load_training_data,
    load_validation_data,
    photograph_steps,
)
from mnistgen.data.photographs import Steps, photograph
from mnistgen.data.torchvision_shim import import_torchvision

__all__ = [
    "DIGITS",
    "FORMATS",
    "STDOUT",
    "ConversionKeywords",
    "Dataset",
    "ImageStream",
    "Images",
    "Steps",
    "as_dataset",
    "available_splits",
    "conversions",
    "data_folder",
    "dataset_name",
    "export_data",
    "import_torchvision",
    "is_picture",
    "load_data",
    "load_images",
    "load_training_data",
    "load_validation_data",
    "photograph",
    "photograph_steps",
    "to_float",
    "to_uint8",
    "train_validation_split",
]
