"""RAUSlicer's engine: segment a target volume from annotated reference volumes.

Never imports slicer, qt or vtk. Heavy packages (torch, transformers, sam2) are imported inside the functions that
need them, so `import rau` and `rau --help` stay fast.
"""

import os

__version__ = "0.6.0"

# Threads that wait for each other sleep. By default torch's spin, and on a machine with other work a run then takes ten
# times as long. It counts only when set before torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "0")
