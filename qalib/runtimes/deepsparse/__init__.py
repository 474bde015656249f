"""DeepSparse 1.8.0 (Neural Magic, 2024; the last version) as a peer, in an environment and a process of its own.

It wants older packages than this project, so `make deepsparse` makes `.venv-deepsparse` for it, or QALIB_DEEPSPARSE
names the python of another environment that has it. Its licence (Neural Magic DeepSparse Community License) allows
evaluation only, not production: it is for the benchmark, and nothing depends on it.

It skips zeros wherever they are in a matrix, and compiles a graph for one shape of batch: at the first batch of it.
"""

from qalib.runtimes.deepsparse.session import build, unavailable_reason

__all__ = ["build", "unavailable_reason"]
