"""Which system libraries Qt and VTK need off screen and do not find here.

    python Testing/system_packages.py             one line that says what to install; exit status 1 when something lacks
    python Testing/system_packages.py --missing   the missing Debian packages alone, for a script; exit status 0

Needs nothing but Python, so that it can run before anything is installed.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

# library -> Debian package. Found by `ldd` on QtGui, QtWidgets, QtUiTools, the offscreen platform, and by tracing which
# libraries VTK's EGL window opens while it runs.
LIBRARIES = {
    "libEGL.so.1": "libegl1",
    "libEGL_mesa.so.0": "libegl-mesa0",
    "libGL.so.1": "libgl1",
    "libX11.so.6": "libx11-6",
    "libXcursor.so.1": "libxcursor1",
    "libXrender.so.1": "libxrender1",
    "libdbus-1.so.3": "libdbus-1-3",
    "libfontconfig.so.1": "libfontconfig1",
    "libfreetype.so.6": "libfreetype6",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgssapi_krb5.so.2": "libgssapi-krb5-2",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libzstd.so.1": "libzstd1",
}
DRIVER_FOLDERS = ("/usr/lib", "/usr/lib64", "/usr/local/lib")
FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts")


def loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def has_driver() -> bool:
    """Mesa's software renderer, which VTK's off-screen window draws with where there is no graphics card."""
    patterns = ("*/dri/swrast_dri.so", "dri/swrast_dri.so", "*/dri/*_dri.so", "dri/*_dri.so", "*/libgallium-*.so")
    return any(any(Path(folder).glob(pattern)) for folder in DRIVER_FOLDERS for pattern in patterns)


def has_font() -> bool:
    return any(True for folder in FONT_FOLDERS for _ in Path(folder).rglob("*.[to]tf"))


def missing() -> list[str]:
    """Debian packages to install; empty where all is there, and on systems other than Linux."""
    if not sys.platform.startswith("linux"):
        return []
    found = [package for library, package in LIBRARIES.items() if not loads(library)]
    if not has_driver():
        found.append("libgl1-mesa-dri")
    if not has_font():
        found.append("fonts-dejavu-core")
    return found


def main(arguments: list[str]) -> int:
    packages = missing()
    if arguments == ["--missing"]:
        print(" ".join(packages))
        return 0
    if packages:
        print(
            "The tests of the panel need system libraries that are not here. On Debian and Ubuntu: "
            f"apt-get install {' '.join(packages)}",
            file=sys.stderr,
        )
    return 1 if packages else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
