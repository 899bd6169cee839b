"""Tables as records: what a benchmark prints is kept in `benchmarks/results`, and docs are made from that.

A record has the table's `head` and `rows`, in the words that they are shown in, and what is needed to make it again:
`command`, `machine`, `versions`, and whatever the benchmark adds (n, seed, evaluators).
"""

import importlib.metadata
import json
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tables import markdown

from mnistgen.files import atomic_file

RESULTS = Path(__file__).with_name("results")


def keep(name: str, head: Sequence[str], rows: Sequence[Sequence[str]], **about: Any) -> str:
    """Write `benchmarks/results/NAME.json`, which `<!-- table NAME -->` in docs shows, and return the table."""
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": f"{machine()}, {torch.get_num_threads()} threads",
        "versions": {package: importlib.metadata.version(package) for package in ("mnistgen", "torch")},
        **about,
        "head": list(head),
        "rows": [list(row) for row in rows],
    }
    with atomic_file(RESULTS / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return markdown(head, rows)


def machine() -> str:
    """The processor, or the GPU where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
