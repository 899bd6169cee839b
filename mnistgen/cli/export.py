"""`mnistgen export CHECKPOINT`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mnistgen.checkpoint import hidden, load, name_of, read_checkpoint
from mnistgen.cli.arguments import Common, parse
from mnistgen.cli.sample import parse_with_sampling_options
from mnistgen.console import notes, out
from mnistgen.errors import UsageError
from mnistgen.export import EVALUATOR, export_onnx, file_of, require_onnx

EXAMPLES = """
mnistgen export dcgan                              dcgan-mnist.onnx: labels and noise in, uint8 images out
mnistgen export flow --steps 4 --out flow4.onnx    sampling options are fixed in the file
mnistgen export evaluator:A                        uint8 images in, logits out
"""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Common):
    """Write a model or an evaluator as an ONNX file, for programs without PyTorch; needs the extra `onnx`.

    What makes a sample random is an input of the file, and a loop over steps is written out.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint: a name, a folder or a .safetensors file; or evaluator:A, evaluator:B, evaluator:NAME."""
    format: Literal["onnx"] = "onnx"
    """The format of the file."""
    out: Path | None = None
    """The file; default: CHECKPOINT.onnx in the working folder."""


def run(arguments: list[str], prog: str) -> int:
    if not arguments or arguments[0].startswith("-"):
        parse(ExportOptions, arguments, prog=prog, examples=EXAMPLES)  # --help, or what is missing
        raise UsageError(f"Name the checkpoint first: {prog} dcgan")
    require_onnx()
    source = arguments[0]
    path = file_of(source)
    sampling: dict[str, Any] = {}
    if read_checkpoint(path).classifier:
        options = parse(ExportOptions, arguments, prog=prog, examples=EXAMPLES)
    else:
        notes(filter(None, [hidden(source)]))
        options, sampling = parse_with_sampling_options(ExportOptions, load(path), arguments, prog, EXAMPLES)
    target = options.out or Path(f"{name_of(path) or source.removeprefix(EVALUATOR)}.onnx")
    away = export_onnx(source, target, seed=options.seed, **sampling)
    console = out()
    console.print(f"exported: {target}", markup=False)
    console.print(f"largest difference from PyTorch: {away.largest:.2g} {away.unit}, {away.mean:.2g} in the mean")
    return 0
