"""Readers of files that may hold anything, one module a format: each returns arrays or raises `DataError`.

What a header claims is held against a limit and against the bytes that are really there before memory is
allocated, and compressed bytes are unpacked as they are consumed, so a small file costs little whatever it says.
No file is unpickled, and no text of a file is evaluated.
"""

from mnistgen.data.readers.csv import Table, read_csv
from mnistgen.data.readers.files import beginning, looks_like, opened
from mnistgen.data.readers.idx import read_idx
from mnistgen.data.readers.npy import Npz, read_npy
from mnistgen.data.readers.parquet import read_parquet
from mnistgen.data.readers.pictures import is_image, read_photograph, read_pictures

__all__ = [
    "Npz",
    "Table",
    "beginning",
    "is_image",
    "looks_like",
    "opened",
    "read_csv",
    "read_idx",
    "read_npy",
    "read_parquet",
    "read_photograph",
    "read_pictures",
]
