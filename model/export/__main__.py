"""Export a model from the command line: ``python -m model.export``."""

from __future__ import annotations

import sys

from model.export.hf_writer import main

if __name__ == "__main__":
    sys.exit(main())
