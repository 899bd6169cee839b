"""`mnistgen demo [CHECKPOINT ...]`."""

import importlib.util
from dataclasses import dataclass
from typing import Annotated

import tyro

from mnistgen.cli.arguments import Common, parse
from mnistgen.errors import UsageError

LOCAL = ("127.0.0.1", "localhost", "::1")
EXAMPLES = """
mnistgen demo                                all models that ship, at http://127.0.0.1:7860
mnistgen demo flow vae-2d ./mine             these alone
mnistgen demo --port 8000
mnistgen demo --host 0.0.0.0                 for everybody on the network
"""


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Common):
    """Draw, complete, explore, read and score digits in the browser, on this machine."""

    sources: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT ...", help_behavior_hint="")
    ] = ()
    """The checkpoints to show, the first one first; default: all that ship."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is for everybody on the network."""
    port: int | None = None
    """Port to listen on; default: 7860, or the next one that is free."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.port is not None and not 0 <= self.port < 2**16:
            raise UsageError(f"--port is {self.port}; it must be from 0 to {2**16 - 1}.")


def run(arguments: list[str], prog: str) -> int:
    options = parse(DemoOptions, arguments, prog=prog, examples=EXAMPLES)
    if importlib.util.find_spec("gradio") is None:
        raise UsageError('The demo needs gradio, which is not installed: pip install "mnistgen[demo]"')
    from mnistgen.console import notes, out
    from mnistgen.demo.models import Models
    from mnistgen.demo.server import application, listening, serve, warm
    from mnistgen.training import resolve_device

    models = Models(options.sources, device=resolve_device(options.device))
    with listening(options.host, options.port) as place:
        warm(models)
        app = application(models, seed=options.seed, data_dir=options.data_dir)
        host, port = place.getsockname()[:2]
        if options.host not in LOCAL:
            notes(["everybody who can reach this machine can use the demo."])
        out().print(f"demo: http://{f'[{host}]' if ':' in host else host}:{port}  (Ctrl-C ends it)", markup=False)
        serve(app, place)
    return 0
