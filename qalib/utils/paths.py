"""Paths: where the package finds the files that come with it.

In the repository, notebooks and models are beside the package. A wheel has only the package, so `setup.py` copies them
into it, to `WHEEL_COPY`.
"""

import os
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "qalib"  # expanded by those who use it
PACKAGE = Path(__file__).resolve().parents[1]
WHEEL_COPY = PACKAGE / "repository"
ROOT = WHEEL_COPY if WHEEL_COPY.is_dir() else PACKAGE.parent
NOTEBOOKS = ROOT / "notebooks"
COURSE = NOTEBOOKS / "course"
BUNDLED = ROOT / "models" / "minilm-l6-squad-block-sparse"
SAMPLE = PACKAGE / "qa" / "sample.json"
EVERYDAY = PACKAGE / "qa" / "everyday.json"
PUBLISHED_MODELS = PACKAGE / "model" / "published.json"
PUBLISHED_CHECKPOINTS = PACKAGE / "report" / "published_checkpoints.csv"
PUBLISHED_SPEEDS = PACKAGE / "report" / "published_speeds.csv"
TEMPLATES = PACKAGE / "report" / "templates"
