"""Checkpoints: where they come from, how they are stored, and the BERT that is made from them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    {
        "architectures",
        "bert",
        "blocks",
        "checkpoint",
        "formats",
        "granularity",
        "hub",
        "quantization",
        "restore",
        "settings",
        "synthetic",
    },
)
