"""The server of the demo, which listens on this machine alone unless it is asked otherwise. It needs gradio."""

import os
import socket
import tempfile
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistgen.demo.models import Models
from mnistgen.errors import MnistgenError, UsageError
from mnistgen.sampling import sample

if TYPE_CHECKING:
    from fastapi import FastAPI

PORT, PORTS = 7860, 100  # gradio's usual one, and how many from there on are tried
LARGEST_FILE = "300mb"
# The page takes nothing from elsewhere, whatever gradio's own files refer to.
POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def application(models: Models, *, seed: int = 0, data_dir: Path | None = None) -> "FastAPI":
    """The page as an ASGI application. Nothing is sent anywhere, and nothing fetched."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    folder = tempfile.TemporaryDirectory(prefix="mnistgen-demo-")
    os.environ["GRADIO_TEMP_DIR"] = folder.name
    import gradio as gr
    from fastapi import FastAPI

    from mnistgen.demo.page import Page
    from mnistgen.demo.parts import STATIC

    app = FastAPI()
    app.state.folder = folder  # what is in it goes with the server
    app.add_middleware(Policy)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return gr.mount_gradio_app(
        app,
        Page(models, seed=seed, data_dir=data_dir).build(),
        "/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=False,
        max_file_size=LARGEST_FILE,
        mcp_server=False,
        theme=gr.themes.Default(**fonts).set(
            block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_400"
        ),
        css_paths=STATIC / "page.css",
    )


class Policy:
    """Middleware that adds the policy of what a page may fetch."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", POLICY)]
            await send(message)

        await self.app(scope, receive, with_policy)


def listening(host: str, port: int | None) -> socket.socket:
    """A socket at this place, or without a port at the first one that is free. Raises `UsageError` where none is."""
    reason = ""
    for number in range(PORT, PORT + PORTS) if port is None else (port,):
        try:
            return socket.create_server((host, number), family=_family(host))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
    asked = f"--host {host}" + (f" --port {port}" if port is not None else "")
    raise UsageError(f"{asked}: nothing can be served there: {reason}. Give another, such as --port {PORT + PORTS}.")


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def warm(models: Models) -> threading.Thread:
    """Load the first model and let it draw, in the background, so that the first picture does not wait for that."""

    def draw() -> None:
        with suppress(MnistgenError):  # it is told to the person who asks for that model
            model = models.load(models.names[0])
            sample(model, list(model.trained_classes or (0,))[:1])

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    return thread


def serve(app: "FastAPI", place: socket.socket) -> None:
    """Serve until the person who started it interrupts."""
    import uvicorn

    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[place])
