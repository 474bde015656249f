"""qalib: understand, measure and run block-sparse question-answering models.

>>> from qalib import load, pipeline, evaluate, prune, finetune, export, sparsity, benchmark

load("bundled")                  a checkpoint, from a folder or the hub
pipeline(model="bundled")        asks: `pipeline(...)(question=..., context=...)`
evaluate("bundled")              answers a question set and scores it: `.score.f1`
prune(PruningConfig(...))        prunes and returns the folder; `finetune(FinetuningConfig(...))` trains a dense model
export("bundled", "folder")      writes a model for transformers, packed, or as ONNX
sparsity.summary(checkpoint)     counts what is left
benchmark.compare(checkpoint)    times forward passes

The last two are subpackages with more to offer, so their functions have names of their own. Everything is imported on
first use: the command line answers --help without loading torch.
"""

import logging
from importlib.metadata import PackageNotFoundError, version

from qalib.utils.lazy import attach

try:
    __version__ = version("qalib")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "not installed"

for _library in ("torchao", "torch.utils._pytree"):  # they warn of each other whenever transformers imports torchao
    logging.getLogger(_library).setLevel(logging.ERROR)

_PUBLIC = {
    "utils.errors": ["InputError"],
    "report.results": ["Results"],
    "model.checkpoint": ["load"],
    "qa.pipeline": ["pipeline"],
    "qa.evaluation": ["evaluate"],
    "pruning.config": ["PruningConfig"],
    "pruning.finetuning": ["FinetuningConfig", "finetune"],
    "pruning.run": ["prune"],
    "runtimes.export.formats": ["export"],
}
__getattr__, __dir__, __all__ = attach(__name__, __path__, _PUBLIC)
