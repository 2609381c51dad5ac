"""Score a model from the command line: ``python -m model.eval``."""

from __future__ import annotations

import sys

from model.eval.score import main

if __name__ == "__main__":
    sys.exit(main())
