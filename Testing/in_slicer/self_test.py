"""Run the module's self tests inside the real Slicer, and leave it with their exit status.

    Slicer --testing --additional-module-paths RAUSlicer --python-script Testing/in_slicer/self_test.py

In the test host the same tests are run by Testing/cmake/run_self_test.py.
"""

from __future__ import annotations

import sys
import traceback
import unittest

import slicer


def passed() -> bool:
    slicer.util.selectModule("RAUSlicer")  # the panel comes up
    import RAUSlicer

    suite = unittest.TestSuite([RAUSlicer.RAUSlicerTest("runTest")])
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    if result.skipped:
        print("Nothing was tested: RAU_PYTHON names no Python with the engine")
    return result.wasSuccessful() and not result.skipped


if __name__ == "__main__":
    try:
        status = 0 if passed() else 1
    except Exception:
        traceback.print_exc()
        status = 1
    slicer.util.exit(status)
