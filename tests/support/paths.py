"""Where the repository and the shared data are."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
MODELS = Path(os.environ.get("TAPIR_MODELS", "~/.cache/tapir/models")).expanduser()
"""What `make models` fetches; tests that need it skip where it is not there."""
