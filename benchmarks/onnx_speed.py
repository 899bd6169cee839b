"""Time to draw images by exported models: onnxruntime beside PyTorch, on the same cores.

    python benchmarks/onnx_speed.py                     sid, dcgan and flow

Each model draws --n labelled images in batches of --batch, by `mnistgen.sample` and by its ONNX file, in turn; noise is
drawn in both. Each time, in milliseconds an image, is the median of the repeats. Both have as many threads as
`torch.get_num_threads()`.
"""

import argparse
import importlib.metadata
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kept import keep

from mnistgen import load, sample
from mnistgen.export import export_onnx, noise_of

MODELS = ("sid", "dcgan", "flow")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--n", type=int, default=1000, help="images")
    parser.add_argument("--batch", type=int, default=100, help="images at a time")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    found = {name: measured(name, options.n, options.batch, options.repeats) for name in options.models}
    rows = [
        [
            f"`{name}`",
            f"{about['pytorch']:.2f} ms",
            f"{about['onnx']:.2f} ms",
            f"{about['pytorch'] / about['onnx']:.2f}",
            f"{about['megabytes']:.1f} MB",
            f"{about['export_seconds']:.0f} s",
            f"{about['largest']:.0f}",
        ]
        for name, about in found.items()
    ]
    head = ["", "PyTorch", "onnxruntime", "times faster", "file", "to export", "largest difference in grey levels"]
    versions = {name: importlib.metadata.version(name) for name in ("mnistgen", "torch", "onnxruntime")}
    print(keep("onnx-speed", head, rows, n=options.n, batch=options.batch, repeats=options.repeats, versions=versions,
               load=round(os.getloadavg()[0], 1), measured=found))  # fmt: skip


def measured(name: str, n: int, batch: int, repeats: int) -> dict[str, Any]:
    """Milliseconds an image by each, and the size of the file."""
    import onnxruntime

    model = load(f"mnistgen:{name}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        start = time.perf_counter()
        away = export_onnx(f"mnistgen:{name}", path)
        exporting = time.perf_counter() - start
        threads = onnxruntime.SessionOptions()
        threads.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, threads, providers=["CPUExecutionProvider"])
        megabytes = path.stat().st_size / 1e6
    labels = torch.arange(n) % 10
    contestants: dict[str, Callable[[torch.Tensor], object]] = {
        "pytorch": lambda labels: sample(model, labels, batch_size=batch),
        "onnx": lambda labels: [drawn(session, some) for some in labels.split(batch)],
    }
    times: dict[str, list[float]] = {key: [] for key in contestants}
    for draw in contestants.values():  # once to warm up
        draw(labels[:batch])
    for _ in range(repeats):
        for key, draw in contestants.items():
            start = time.perf_counter()
            draw(labels)
            times[key].append((time.perf_counter() - start) * 1000 / n)
    medians = {key: statistics.median(some) for key, some in times.items()}
    ranges = {f"{key}_range": (min(some), max(some)) for key, some in times.items()}
    return {**medians, **ranges, "megabytes": megabytes, "export_seconds": exporting, "largest": away.largest, "n": n,
            "batch": batch, "repeats": repeats}  # fmt: skip


def drawn(session: Any, labels: torch.Tensor) -> Any:
    """A batch by onnxruntime; its noise is drawn as mnistgen draws it."""
    return session.run(None, {"labels": np.asarray(labels), **noise_of(session, len(labels))})[0]


if __name__ == "__main__":
    main()
