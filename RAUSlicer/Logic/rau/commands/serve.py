"""`rau serve`: the worker over HTTP, for computers that trust each other; on this computer alone unless told."""

from __future__ import annotations

import os
import secrets
import socket
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rau.errors import InputError

SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Serving:
    """Where to listen and for whom. port 0: a free one. names: host names by which clients call the server."""

    host: str = "127.0.0.1"
    port: int = 8417
    token_file: Path | None = None
    max_upload_mb: int = 2048
    keep_minutes: float = 60.0
    allow_remote: bool = False
    names: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None


def run(serving: Serving) -> None:
    """Serve until interrupted. Raises InputError: an address that is not to be had, a token that is not private."""
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError:
        raise InputError(
            "rau serve needs the packages fastapi and uvicorn", 'Install them: pip install "rauslicer[serve]"'
        ) from None
    from rau.worker.http import make_app
    from rau.worker.http_guard import is_loopback
    from rau.worker.http_jobs import Limits

    local = is_loopback(serving.host)
    if not local and not serving.allow_remote:
        raise InputError(
            f"At {serving.host} other computers could send images here: pixels would leave those computers",
            "Keep 127.0.0.1, or say --allow-remote",
        )
    if (serving.tls_cert is None) != (serving.tls_key is None):
        raise InputError("--tls-cert and --tls-key belong together", "Give both or none")
    listening = bound(serving.host, serving.port)
    with listening:
        token, where = token_of(serving.token_file)
        names = frozenset({*serving.names, *(() if local else (serving.host, socket.gethostname(), socket.getfqdn()))})
        limits = Limits(upload=serving.max_upload_mb << 20, keep=60 * serving.keep_minutes)
        app = make_app(token, limits=limits, names=names, remote=not local)
        tell(serving, token, where, local)
        options: dict[str, Any] = {"log_config": None, "access_log": False, "server_header": False, "ws": "none"}
        options |= {"timeout_graceful_shutdown": 2, "limit_concurrency": 128, "lifespan": "on"}
        if serving.tls_cert is not None:
            options |= {"ssl_certfile": readable(serving.tls_cert), "ssl_keyfile": readable(serving.tls_key)}

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                print(f"Listening on {address_of(serving, listening)}", flush=True)

        try:
            Server(uvicorn.Config(app, **options)).run(sockets=[listening])
        except OSError as error:  # of ssl
            raise InputError("The certificate or its key cannot be used", "Give both as PEM files") from error


def bound(host: str, port: int) -> socket.socket:
    """A socket at that address. Raises InputError."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except (OSError, OverflowError):
        raise InputError(
            f"Port {port} of {host} is not to be had", "Choose another --port, or 0 for a free one"
        ) from None
    return listening


def token_of(file: Path | None) -> tuple[str, str]:
    """The token and where it lies: made anew without a file; a file that does not exist is made, for its owner alone.

    Raises InputError: a file that others can read, that cannot be read or written, or that holds no token.
    """
    if file is None:
        return secrets.token_urlsafe(32), ""
    path = file.expanduser()
    try:
        with suppress(FileExistsError):
            made = secrets.token_urlsafe(32)
            with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w", encoding="ascii") as stream:
                stream.write(made + "\n")
            return made, path.name
        if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise InputError(f"Others can read the token file {path.name}", "Take their rights away: chmod 600")
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"The token file {path.name} cannot be read or written", "Choose another place") from None
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise InputError(
            f"The token file {path.name} holds no token of {SHORTEST_TOKEN} or more letters",
            "Remove it to get a new one",
        )
    return token, path.name


def readable(file: Path | None) -> str:
    from rau.volume.files import checked

    assert file is not None
    return str(checked(file))


def address_of(serving: Serving, listening: socket.socket) -> str:
    """The address for clients, with the port that was found."""
    scheme = "https" if serving.tls_cert is not None else "http"
    host = f"[{serving.host}]" if ":" in serving.host else serving.host
    return f"{scheme}://{host}:{listening.getsockname()[1]}"


def tell(serving: Serving, token: str, where: str, local: bool) -> None:
    """The token, once, and what is to be known of others' images; on stderr."""
    print(f"Token, in the file {where}" if where else f"Token, shown this once: {token}", file=sys.stderr)
    if not local:
        print("Images that are sent here leave the computers that they come from (--allow-remote)", file=sys.stderr)
        if serving.tls_cert is None:
            print(
                "They and the token travel unencrypted: give --tls-cert and --tls-key, or use a tunnel", file=sys.stderr
            )
    sys.stderr.flush()
