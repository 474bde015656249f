"""qalib: understand, measure and run block-sparse question-answering models."""

from importlib.metadata import PackageNotFoundError, version

from qalib.utils.lazy import attach

try:
    __version__ = version("qalib")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "not installed"

# Imported when first used: the command line answers --help without loading torch.
_PUBLIC = {
    "utils.errors": ["InputError"],
    "report.results": ["Results"],
    "model.checkpoint": ["load"],
    "qa.pipeline": ["pipeline"],
}
__getattr__, __dir__, __all__ = attach(__name__, __path__, _PUBLIC)
