"""Serves the folder of a page to the browser of this machine."""

import functools
import sys
import threading
import webbrowser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = {  # noqa: RUF012 (as in the base class)
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".wasm": "application/wasm",
        ".webmanifest": "application/manifest+json",
    }

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Reports an error, except that a browser closed its connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def make_server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """Returns a server that only this machine reaches; port 0 is any free one."""
    return _Server(("127.0.0.1", port), functools.partial(_Handler, directory=str(folder)))


def serve(folder: Path) -> None:
    """Serves a folder and opens it in the browser, until the process is interrupted."""
    with make_server(folder) as server:
        url = f"http://localhost:{server.server_port}/"
        print(f"{url}, Ctrl-C to stop", flush=True)
        # It blocks until a browser in the terminal is closed.
        threading.Thread(target=webbrowser.open, args=[url], daemon=True).start()
        server.serve_forever()
