"""Pruning: movement and magnitude, and the training runs that they are part of."""

import lazy_loader

MODULES = {
    "callback", "config", "controller", "dataset", "losses", "magnitude", "minimal", "movement", "progress", "pruner",
    "run", "run_folder", "sampler", "schedule", "teacher", "trainer",
}  # fmt: skip
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, MODULES)
