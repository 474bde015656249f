"""Sparsity: counting what is left of a checkpoint.

Densities are over unpruned sizes: nonzero weights of the encoder matrices / all of them. Block density differs
where pruning was not in blocks: a block is kept if any of its weights is not zero. Cutting heads or neurons out of the
file changes none of these.
"""

from qalib.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    __path__,
    {
        "counts": [
            "block_fill",
            "block_masks",
            "block_misfits",
            "density",
            "grouped",
            "heads",
            "neurons",
            "per_matrix",
        ],
        "costs": ["file_sizes", "multiply_adds", "parameters"],
        "headline": ["Summary", "summary", "tables"],
    },
)
