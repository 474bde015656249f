"""Running notebooks with papermill: parameters are checked before, completeness after."""

import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from qalib.utils.errors import InputError, ReportError, one_line
from qalib.utils.files import require_file


class OwnKernel(AsyncKernelManager):
    """Starts kernels in this interpreter, whatever kernels Jupyter finds by the same name."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The kernel that ipykernel would install for this interpreter."""
        return KernelSpec(**get_kernel_dict())


def check_parameters(notebook: Path, parameters: dict[str, Any]) -> set[str]:
    """The parameters that a notebook declares. Raises InputError if one of `parameters` is not among them."""
    require_file(notebook)
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings(action="ignore"):
            declared = set(papermill.inspect_notebook(str(notebook)))
    except Exception as error:  # papermill and nbformat raise many kinds
        raise InputError(f"{notebook}: not a notebook: {one_line(error)}") from None
    if unknown := parameters.keys() - declared:
        raise InputError(
            f"{notebook.name}: no parameter {', '.join(sorted(unknown))}; "
            f"it has {', '.join(sorted(declared)) or 'none'}"
        )
    return declared


def execute(notebook: Path, output: Path, parameters: dict[str, Any], timeout: float = 4 * 3600) -> float:
    """Run one notebook with papermill and keep it as `output` once it is complete; returns the seconds it took.

    Raises InputError for a parameter that the notebook does not declare, and ReportError if a cell fails or times out
    or the kernel dies; the partial notebook is then kept as `*.FAILED.ipynb`.
    """
    check_parameters(notebook, parameters)
    output.parent.mkdir(parents=True, exist_ok=True)
    running = output.with_suffix(".running.ipynb")
    failed = output.with_suffix(".FAILED.ipynb")
    failed.unlink(missing_ok=True)
    began = time.perf_counter()
    try:
        _in_thread(partial(
            papermill.execute_notebook, notebook, running, parameters, kernel_name="python3", progress_bar=False,
            start_timeout=120, execution_timeout=timeout, extra_arguments=["--log-level=CRITICAL"],
            kernel_manager_class=OwnKernel,
        ))  # fmt: skip
        _check_complete(running)
    except BaseException as error:
        if running.exists():
            running.rename(failed)
        if not isinstance(error, Exception):
            raise
        raise ReportError(f"{notebook.name}, {_where(error)}; the partial notebook is {failed}") from error
    running.rename(output)
    return time.perf_counter() - began


def _in_thread(execute: Callable[[], Any]) -> None:
    """Call a function that runs a kernel; in a thread, where nbclient leaves the process's signal handlers as they are.

    If the wait is interrupted, the kernel is ended.
    """
    with ThreadPoolExecutor(1, "notebook") as thread:
        try:
            thread.submit(execute).result()
        except BaseException:
            for child in psutil.Process().children(recursive=True):
                child.kill()
            raise


def _check_complete(path: Path) -> None:
    """papermill can leave an output that looks complete; trust the cells."""
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == "code" and cell.source.strip():
            if cell.execution_count is None or any(o.output_type == "error" for o in cell.outputs):
                raise RuntimeError(f"cell {number} did not finish")


def _where(error: Exception) -> str:
    if isinstance(error, papermill.PapermillExecutionError):
        return f"cell {error.cell_index} ({error.source.strip().splitlines()[0]}): {error.ename}: {error.evalue}"
    return one_line(error)
