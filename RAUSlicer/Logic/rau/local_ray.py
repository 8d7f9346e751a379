"""Ray for `rau batch`: processes on this computer that nobody else can reach."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rau.errors import InputError

SHORT_FOLDER = 40  # letters; Ray's sockets lie below its folder, and their paths are limited
STORE = 80 << 20  # bytes of Ray's object store: paths and figures travel, no images


@contextlib.contextmanager
def local_ray(workers: int) -> Iterator[Any]:
    """Ray on this computer alone: on loopback, with a token of its own, without dashboard and statistics; its files lie
    in a private folder that goes with it.

    Raises InputError when Ray is not installed or does not start.
    """
    with environment(ray_environment()):
        ray = imported_ray()
        base = tempfile.gettempdir()
        if len(base) > SHORT_FOLDER and os.path.isdir("/tmp"):
            base = "/tmp"
        private = Path(tempfile.mkdtemp(prefix="rau-", dir=base))  # Ray opens its own folder to everybody: one below
        try:
            start(ray, workers, private / "ray")
            yield ray
        finally:
            ray.shutdown()
            shutil.rmtree(private, ignore_errors=True)


def start(ray: Any, workers: int, folder: Path) -> None:
    """Raises InputError."""
    from rau.worker.http_guard import is_loopback

    try:
        ray.init(
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=STORE,
            _temp_dir=str(folder),
        )
    except (OSError, RuntimeError, TimeoutError) as error:
        raise InputError("Ray does not start on this computer", "Say --workers 0") from error
    if not is_loopback(ray.util.get_node_ip_address()):
        raise InputError("Other computers could reach this version of Ray", "Say --workers 0")


def imported_ray() -> Any:
    """Ray, imported under `ray_environment`. Raises InputError: not installed, or imported before under another one."""
    try:
        import ray
        from ray._private import ray_constants
    except ImportError:
        raise InputError(
            "Several processes need the package ray", 'Install it: pip install "rauslicer[batch]", or say --workers 0'
        ) from None
    if getattr(ray_constants, "ENABLE_RAY_CLUSTER", True):
        raise InputError("Ray is in use in this process already", "Use a process of its own, or --workers 0")
    return ray


def ray_environment() -> dict[str, str]:
    """For Ray and its processes; Ray reads most of it when it is imported.

    Whoever reaches Ray's ports can run code. So they are on loopback, by the switch that Ray has for Windows and macOS
    and heeds everywhere (an address given to `ray.init` is not: it becomes the outer one), and they ask for a token.
    """
    engine = str(Path(__file__).resolve().parent.parent)
    paths = [engine, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": ray_token(),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join(paths),
    }


@functools.cache
def ray_token() -> str:
    """One for this process: Ray keeps the first that it saw."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def environment(changed: Mapping[str, str]) -> Iterator[None]:
    """These variables, for a while."""
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
