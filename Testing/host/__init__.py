"""A test host: runs the real module file, its `.ui` and its logic without the Slicer application.

Real: MRML, its logics and displayable managers, `slicer.util`, reading and writing (all from the `slicer-core` wheel),
and Qt (PySide6, offscreen). Stand-ins written for this project: `qt` and `ctk` with the manners of PythonQt
(`qt_shim`), the MRML widgets that a `.ui` file names (`mrml_widgets`), the module base classes and the parameter node
wrapper (`standins`, `parameter_node`), loading and saving by file ending (`io_manager`). No file of Slicer is copied.

    from host.session import start
    host = start()
    widget = host.open_module(path_of_the_module_file)

Stricter than Slicer where that finds mistakes: an unknown signal, an unknown widget class in a `.ui` file, a property
called like a method, and a parameter without a connector are errors.
"""

from __future__ import annotations

import os

from system_packages import LIBRARIES, missing

# Debian packages of the system libraries that Qt and VTK open off screen (see Testing/system_packages.py).
SYSTEM_PACKAGES = tuple(sorted({*LIBRARIES.values(), "libgl1-mesa-dri", "fonts-dejavu-core"}))


def why_not() -> str:
    """One line saying what the host lacks on this machine; empty when it can run."""
    packages = missing()
    if packages:
        return f"The panel needs system libraries. On Debian and Ubuntu: apt-get install {' '.join(packages)}"
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    try:
        import PySide6.QtUiTools  # noqa: F401
        import slicer  # noqa: F401
    except ImportError as problem:
        return f"The panel needs the packages slicer-core and PySide6-Essentials ({problem})"
    return ""
