"""`mnistgen push CHECKPOINT hf://OWNER/NAME`."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from mnistgen.cli.arguments import Common, parse
from mnistgen.console import out
from mnistgen.sharing import push

EXAMPLES = """
mnistgen push vae-mnist hf://me/vae-mnist
mnistgen push checkpoints/mine hf://me/mine@v2 --private
mnistgen sample hf://me/vae-mnist                  wherever a checkpoint is named
"""


@dataclass(frozen=True, kw_only=True)
class PushOptions(Common):
    """Put a checkpoint and its card on Hugging Face's hub, as you after `hf auth login`; needs the extra `hub`."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint: a name, a folder or a .safetensors file."""
    address: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="hf://OWNER/NAME")]
    """The repository, which is made where there is none; @BRANCH behind it for another branch than main."""
    private: bool = False
    """Make a new repository private."""


def run(arguments: list[str], prog: str) -> int:
    options = parse(PushOptions, arguments, prog=prog, examples=EXAMPLES)
    commit = push(options.source, options.address, private=options.private)
    out().print(f"pushed: {options.address} (commit {commit[:12]})", markup=False)
    return 0
