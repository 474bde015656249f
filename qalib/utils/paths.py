"""Paths: where the package finds what travels with it."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent
NOTEBOOKS = ROOT / "notebooks"
COURSE = NOTEBOOKS / "course"
BUNDLED = ROOT / "models" / "minilm-l6-squad-block-sparse"
SAMPLE = PACKAGE / "qa" / "sample.json"
PUBLISHED_MODELS = PACKAGE / "model" / "published.json"
PUBLISHED_CHECKPOINTS = PACKAGE / "report" / "published_checkpoints.csv"
TEMPLATES = PACKAGE / "report" / "templates"
