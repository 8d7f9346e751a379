"""`python -m rau.worker`: what the panel starts."""

from __future__ import annotations

import sys

from rau.worker.process import main

sys.exit(main())
