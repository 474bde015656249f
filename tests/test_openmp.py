"""OpenMP's limits: torch's bf16 products are silently wrong under them, unless it uses no more threads."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from qalib import runtimes
from qalib.benchmark import sweep
from qalib.runtimes import dtypes
from qalib.utils import openmp
from qalib.utils.errors import InputError

ASK = """
import torch
torch.set_num_threads(4)
from qalib.{module} import *
from qalib.utils import openmp
print(torch.get_num_threads(), openmp.product_error("bf16", torch.get_num_threads()) < 0.05)
"""


@pytest.mark.parametrize(
    "module, limit, threads, warning",
    [
        ("model.bert", "OMP_THREAD_LIMIT=1", 1, ""),
        ("utils.machine", "OMP_THREAD_LIMIT=3", 3, ""),
        ("utils.machine", "OMP_DYNAMIC=true", 1, "qalib: OMP_DYNAMIC=true: torch uses 1 thread, not 4"),
        ("utils.machine", "OMP_MAX_ACTIVE_LEVELS=0", 1, ""),
        ("utils.machine", "OMP_NUM_THREADS=4", 4, ""),
    ],
)
def test_threads_are_those_that_openmp_grants(module, limit, threads, warning):
    ended = subprocess.run(
        [sys.executable, "-c", ASK.format(module=module)],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | dict([limit.split("=")]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.split() == [str(threads), "True"]
    assert ended.stderr.startswith(warning) and bool(ended.stderr) == bool(warning)


def test_a_type_that_is_multiplied_wrongly_is_refused(monkeypatch, sparse):
    monkeypatch.setattr(openmp, "product_error", lambda dtype, threads: float("nan") if dtype == "bf16" else 0.0)
    refused = "bf16: torch's products must be within 0.05 of float64's, and are off by nan .* choose fp32$"
    for compute in (
        lambda: dtypes.choose("bf16", dtypes.TRAINING),
        lambda: runtimes.choose_dtype("bf16", "dense"),
        lambda: runtimes.build("dense", sparse, "cpu", "bf16"),
    ):
        with pytest.raises(InputError, match=refused):
            compute()
    assert dtypes.choose("fp32", dtypes.TRAINING) == "fp32" and runtimes.build("dense", sparse)


def test_products_are_right_here():
    threads = torch.get_num_threads()
    assert openmp.product_error("fp32", threads) < 1e-5 < openmp.product_error("bf16", threads) < 0.05


def test_a_sweep_takes_no_more_threads_than_are_granted(monkeypatch, sparse):
    monkeypatch.setattr(openmp, "granted_threads", lambda: 1)
    with pytest.raises(InputError, match="2 threads: OpenMP grants 1 under"):
        sweep.threads(sparse, [2], names=["dense"])
