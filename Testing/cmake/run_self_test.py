"""Run the self test of a module file in the test host: `python run_self_test.py .../RAUSlicer.py` (ctest calls it)."""

from __future__ import annotations

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from host.session import start


def main(path: Path) -> int:
    host = start()
    module = host.load(path)
    widget = host.open_module(path)  # the panel comes up from this tree: its .ui and its libraries are there
    libraries = {name: m for name, m in sys.modules.items() if name.startswith("RAUSlicerLib")}
    foreign = [n for n, m in libraries.items() if not str(m.__file__).startswith(str(path.parent))]
    assert libraries and not foreign, f"imported from elsewhere: {foreign}"
    assert widget.ui.segmentButton.text
    host.close_modules()
    suite = unittest.TestSuite([getattr(module, path.stem + "Test")("runTest")])
    return 0 if unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
