"""Serve a model from the command line: ``python -m model.serve``."""

from __future__ import annotations

import sys

from model.serve.app import main

if __name__ == "__main__":
    sys.exit(main())
