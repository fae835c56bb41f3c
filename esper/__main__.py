"""``python -m esper``."""

from __future__ import annotations

import sys

from esper.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
