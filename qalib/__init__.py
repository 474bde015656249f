"""qalib: understand, measure and run block-sparse question-answering models."""

from importlib import import_module

# Imported when first used: the command line answers --help without loading torch.
_PUBLIC = {
    "InputError": "utils.errors",
    "Results": "report.results",
    "load": "model.checkpoint",
    "pipeline": "qa.pipeline",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'qalib' has no attribute {name!r}")
    return getattr(import_module(f"qalib.{_PUBLIC[name]}"), name)
