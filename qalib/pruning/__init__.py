"""Pruning: movement and magnitude, and the training runs that they are part of."""

from importlib import import_module

# Imported when first used: the command line takes its options from `config`, and answers --help without loading torch.
__all__ = [
    "callback", "config", "controller", "dataset", "losses", "magnitude", "minimal", "movement", "progress", "pruner",
    "run", "run_folder", "sampler", "schedule", "teacher", "trainer",
]  # fmt: skip


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module 'qalib.pruning' has no attribute {name!r}")
    return import_module(f"qalib.pruning.{name}")
