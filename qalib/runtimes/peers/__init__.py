"""Peers: other libraries that run the same model, as baselines; one file or folder per library.

They get the dense model, zeros included, as a user would run it: none of them knows blocks. Optional: extra `peers`.
"""

from importlib import import_module

PEERS = ("openvino", "onnxruntime", "torchao", "deepsparse", "neural_engine", "pytorch_block_sparse")
for _name in PEERS:  # importing a module registers its runtimes
    import_module(f"{__name__}.{_name}")


def __dir__() -> list[str]:
    return [*PEERS, "PEERS", "calibration", "remote", "session"]
