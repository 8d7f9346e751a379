"""A server that is none of ours: for tests of what a client makes of its answers."""

from __future__ import annotations

import http.server
import threading
from typing import Any


class Server(threading.Thread):
    """Answers every request as told: (status, body), by the first words that a request begins with; None: never."""

    def __init__(self, answers: dict[str, tuple[int, bytes] | None]) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                asked = f"{self.command} {self.path}"
                found = next(value for key, value in answers.items() if asked.startswith(key))
                if found is None:
                    outer.over.wait(30)
                    return
                self.send_response(found[0])
                self.send_header("Content-Length", str(len(found[1])))
                self.end_headers()
                self.wfile.write(found[1])

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *_: Any) -> None:
                """Not on the terminal of the tests."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def run(self) -> None:
        self.server.serve_forever(poll_interval=0.05)

    def end(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()
