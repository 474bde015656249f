"""qalib: understand, measure and run block-sparse question-answering models."""

from qalib.utils.lazy import attach

# Imported when first used: the command line answers --help without loading torch.
_PUBLIC = {
    "utils.errors": ["InputError"],
    "report.results": ["Results"],
    "model.checkpoint": ["load"],
    "qa.pipeline": ["pipeline"],
}
__getattr__, __dir__, __all__ = attach(__name__, __path__, _PUBLIC)
