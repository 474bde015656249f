"""The measurements on a GPU, part by part (`make gpu`), into reports/benchmarks/NAME-OF-THE-GPU/.

checks      the tests with the marker `gpu`: every kernel and size against float64, runtimes against dense
kernels     what the card can do, the products of one layer (dense at full and at compact size, panels in every size)
            and its residual with LayerNorm
twin        runtimes end to end on the structural twin of 0.32, whose blocks stand at random
real        the same on every kept block of 0.20 as published (masks_0.20.json)
evaluation  the whole evaluation of the bundled model
card        the whole evaluation of the twin as the published card timed it: batches of 16, padded to 384 tokens
training    the dense teacher trained on, and pruned by movement and by magnitude, so many minutes each

A part is a process of its own with a limit of time; its rows are kept one by one in PART.json, whatever comes after.
With `--device cpu` all of it is rehearsed, GPU runtimes too, and every file says so.
"""

from qalib.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __path__, {"settings": ["Settings"]})
