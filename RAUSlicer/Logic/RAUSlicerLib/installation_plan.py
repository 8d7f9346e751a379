"""What a set-up will do: how much is downloaded and from where, how much disk it takes, and its steps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from RAUSlicerLib import installation_pins as pins_of
from RAUSlicerLib import installation_system as system
from RAUSlicerLib.environment import LOGIC_FOLDER, WITHIN, Launch, worker_environment
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.installation_pins import Pin, Pins
from RAUSlicerLib.installation_system import Gpu, Python
from RAUSlicerLib.problems import Problem

GB = 1_000_000_000
DOWNLOAD = {"cuda": 3.2 * GB, "cpu": 0.8 * GB}  # bytes, of the pinned packages
INSTALLED = {"cuda": 7.0 * GB, "cpu": 2.6 * GB}
UNPACKED = 3.0  # what a wheel takes on disk beside its own size
WEIGHTS = {"making": 0.03, "tools": 0.05, "torch": 0.5, "packages": 0.35, "checking": 0.07}
BUILDS = (("auto", _("Automatic")), ("cpu", _("For the CPU")), ("cuda", _("For an NVIDIA GPU (CUDA)")))


@dataclass(frozen=True)
class Options:
    """What the user chose. build: auto, cpu or cuda. wheels: an offline folder; proxy: host:port; both may be empty."""

    build: str = "auto"
    wheels: str = ""
    proxy: str = ""


@dataclass(frozen=True)
class Step:
    """One process. packages: how many it installs."""

    phase: str
    launch: Launch
    packages: int = 0


@dataclass(frozen=True)
class Plan:
    """root: the folder of it all. variables: of the processes. wheels: None downloads. requirements: which list."""

    root: Path
    python: Python
    build: str
    gpu: Gpu | None
    wheels: Path | None
    requirements: Path
    pins: Pins
    variables: tuple[tuple[str, str], ...]
    download: float
    needed: float
    installed: float
    free: float

    @property
    def folder(self) -> Path:
        return self.root / "python"

    @property
    def program(self) -> Path:
        return self.folder.joinpath(*WITHIN)

    def check_room(self) -> None:
        """Raises Problem when the disk is too small."""
        if 0 < self.free < self.needed:
            sizes = {"n": gb(self.needed), "m": gb(self.free), "folder": self.root}
            text = _("The environment needs {n} of disk, and {m} are free for {folder}").format(**sizes)
            raise Problem(text, _("Free some space, or set RAU_ENVIRONMENT to a folder on a larger disk"), "DiskFull")

    def words(self) -> list[str]:
        """For the user, before anything is downloaded."""
        proxy = system.proxy_of(dict(self.variables))
        lines = [
            _("{python} makes an environment of its own in {folder}. Slicer's packages stay as they are.").format(
                python=self.python.words, folder=self.root
            ),
            self._build_words(),
            self._source_words(),
            _("Disk: {n} while it works, {m} afterwards; {k} are free.").format(
                n=gb(self.needed), m=gb(self.installed), k=gb(self.free) if self.free else "?"
            ),
        ]
        if proxy and self.wheels is None:
            lines.append(_("Through the proxy {host}.").format(host=proxy))
        return lines

    def _build_words(self) -> str:
        if self.build == "cuda":
            found = f"{self.gpu.name}, {_('driver')} {self.gpu.driver}" if self.gpu else _("no driver was found")
            return _("PyTorch for an NVIDIA GPU ({found}).").format(found=found)
        why = _("no NVIDIA driver was found") if self.gpu is None else self.gpu.name + ": " + _("by choice")
        return _("PyTorch for the CPU ({why}).").format(why=why)

    def _source_words(self) -> str:
        if self.wheels is not None:
            return _("Takes the packages from the folder {folder}. Nothing is downloaded.").format(folder=self.wheels)
        host = system.host_of(self.python.index) if self.python.index else _("PyPI, the Python Package Index")
        checked = _("each checked against its checksum") if self.pins.hashed else _("with pinned versions")
        extra = "" if self._usual() else " " + _("PyTorch itself comes from PyTorch's own index, by its version.")
        text = _("Downloads about {n}: {k} packages from {host}, {checked}.")
        return text.format(n=gb(self.download), k=self._count(), host=host, checked=checked) + extra

    def _count(self) -> int:
        """How many packages come from the index."""
        if self._usual():
            return self.pins.count()
        return len({one.name for one in (*self.pins.named((*pins_of.TOOLS, "uv")), *self.pins.rest())})

    def _usual(self) -> bool:
        return pins_of.usual_index_has(self.build, self.gpu is None or self.gpu.new_enough)

    # -- steps
    def make_step(self) -> Step:
        sources = [str(one) for one in sorted(self.wheels.glob("pip-*.whl"), reverse=True)] if self.wheels else []
        arguments = ("make", str(self.folder), *self.python.pip, *sources)
        return Step("making", system.helper(self.python.program, arguments, dict(self.variables)))

    def steps(self, pip_version: str, own: Mapping[str, str]) -> Iterator[Step]:
        """What follows once the environment is made. pip_version: of the pip in it; own: variables that its Python
        needs."""
        uv = self.wheels is None and not self._usual()
        tools = self.pins.named((*pins_of.TOOLS, *(("uv",) if uv else ())))
        if tools:
            yield self._pip("tools", tools, pip_version, own)
            pip_version = next((one.version for one in tools if one.name == "pip"), pip_version)
        torch = self.pins.named(pins_of.TORCH)
        local = self._local_torch(torch)
        if torch and uv:
            yield self._uv(torch, own)
        elif torch and local:
            arguments = (*self._common(pip_version), "--no-deps", *local)
            yield Step("torch", self._launch(own, "-m", "pip", *arguments), len(local))
        elif torch:
            yield self._pip("torch", self.pins.torch() if self.pins.hashed else torch, pip_version, own)
        rest = self.pins.rest()
        if rest:
            yield self._pip("packages", rest, pip_version, own)
        variables = worker_environment(dict(self.variables), LOGIC_FOLDER)
        yield Step("checking", system.helper(str(self.program), ("check",), {**variables, **own}))

    def _local_torch(self, torch: tuple[Pin, ...]) -> list[str]:
        """The wheels of PyTorch for this build in the offline folder, where they are apart ("+cpu", "+cu130")."""
        if self.wheels is None:
            return []
        versions = {one.name: pins_of.wheels_of_build(self.wheels, self.build, one.name, one.version) for one in torch}
        return [f"{name}=={version}" for name, version in versions.items()] if all(versions.values()) else []

    def _pip(self, phase: str, pins: tuple[Pin, ...], pip_version: str, own: Mapping[str, str]) -> Step:
        list_file = self.root / f"requirements-{phase}.txt"
        list_file.write_text(pins_of.as_text(pins), encoding="utf-8")
        more = ["--require-hashes", "--no-deps"] if self.pins.hashed else []
        launch = self._launch(own, "-m", "pip", *self._common(pip_version), *more, "--requirement", str(list_file))
        return Step(phase, launch, len({one.name for one in pins}))

    def _common(self, pip_version: str) -> list[str]:
        arguments = ["install", "--disable-pip-version-check", "--no-input", "--no-build-isolation", "--no-color"]
        numbers = [int(n) for n in pip_version.split(".")[:2] if n.isdecimal()]
        arguments += ["--progress-bar", "raw" if numbers >= [24, 1] else "off"]
        if self.wheels is not None:
            arguments += ["--no-index", "--find-links", str(self.wheels)]
        return arguments

    def _uv(self, torch: tuple[Pin, ...], own: Mapping[str, str]) -> Step:
        backend = "cpu" if self.build == "cpu" else "auto"
        names = [f"{one.name}=={one.version}" for one in torch]
        target = ("--python", str(self.program), "--no-deps", "--torch-backend", backend)
        arguments = ("pip", "install", "--no-config", *target, *names)
        return Step("torch", self._launch(own, "-m", "uv", *arguments), len(names))

    def _launch(self, own: Mapping[str, str], *arguments: str) -> Launch:
        return Launch(str(self.program), arguments, tuple(sorted({**dict(self.variables), **own}.items())))


def make_plan(
    root: Path, python: Python, gpu: Gpu | None, options: Options, base: Mapping[str, str], platform: str
) -> Plan:
    """Raises Problem: a folder without wheels, no proxy address, no list of packages."""
    wheels = pins_of.wheel_folder(options.wheels)
    requirements = pins_of.requirements_of(wheels)
    build = options.build
    if build == "auto":
        build = "cuda" if gpu is not None and platform != "darwin" else "cpu"
    variables = system.with_proxy(system.clean(base), options.proxy)
    variables.update(
        PIP_CACHE_DIR=str(root / "cache"),
        UV_CACHE_DIR=str(root / "cache"),
        UV_NATIVE_TLS="1",
        SAM2_BUILD_CUDA="0",
        **{name: str(root / "temporary") for name in ("TMPDIR", "TEMP", "TMP")},
    )
    if wheels is not None:
        variables = {name: value for name, value in variables.items() if not name.startswith("PIP_")}
        variables.update(PIP_CONFIG_FILE=os.devnull, PIP_NO_CACHE_DIR="1")
    size = float(sum(one.stat().st_size for one in wheels.glob("*.whl"))) if wheels is not None else 0.0
    download = 0.0 if wheels is not None else DOWNLOAD[build]
    installed = UNPACKED * size if wheels is not None else INSTALLED[build]
    return Plan(
        root=root,
        python=python,
        build=build,
        gpu=gpu,
        wheels=wheels,
        requirements=requirements,
        pins=pins_of.read_pins(requirements),
        variables=tuple(sorted(variables.items())),
        download=download,
        needed=installed + 2 * download,
        installed=installed,
        free=float(system.free_bytes(root)),
    )


def gb(size: float) -> str:
    """Bytes in words."""
    if size < 0.1 * GB:
        return f"{max(1, round(size / 1e6))} MB"
    return f"{size / GB:.0f} GB" if size >= 10 * GB else f"{size / GB:.1f} GB"
