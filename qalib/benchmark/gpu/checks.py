"""The tests that need a GPU, as a part of its measurement: figures of kernels that are wrong are worth nothing."""

import re
import subprocess
import sys

from qalib.benchmark.gpu.settings import Rows, Settings
from qalib.utils.files import write_text
from qalib.utils.paths import ROOT


def checks(settings: Settings) -> None:
    """The tests with the marker `gpu`; what they say goes to checks.txt."""
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    command = [*pytest, "-m", "gpu", str(ROOT / "tests" / "runtimes" / "test_gpu.py")]
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    write_text(settings.out / "checks.txt", ran.stdout)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", ran.stdout)}
    Rows(settings, "checks").add({"exit_code": ran.returncode} | counts)
