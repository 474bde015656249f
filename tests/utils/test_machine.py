import platform
import subprocess
import sys

import pytest

from qalib.utils import machine


@pytest.mark.parametrize(
    "flags, caps, types",
    [
        ("avx2", {}, ["fp32"]),
        ("asimd bf16", {}, ["fp32", "bf16"]),
        ("avx512f avx512_bf16", {}, ["fp32", "bf16"]),
        ("avx512f avx512_bf16", {"ATEN_CPU_CAPABILITY": "avx2"}, ["fp32"]),
        ("avx512f avx512_bf16", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, ["fp32"]),
        ("avx512f avx512_bf16", {"MKL_ENABLE_INSTRUCTIONS": "AVX2"}, ["fp32"]),
        ("avx512f avx512_bf16", {"QALIB_INSTRUCTIONS": "avx512"}, ["fp32", "bf16"]),  # torch goes on as before
        ("avx512_bf16", {"ONEDNN_MAX_CPU_ISA": "ALL", "MKL_ENABLE_INSTRUCTIONS": "AVX512_E4"}, ["fp32", "bf16"]),
        ("avx512f avx512_bf16 amx_bf16", {"QALIB_INSTRUCTIONS": "amx_bf16"}, ["fp32", "bf16"]),
    ],
)
def test_bf16_counts_where_the_processor_has_it_and_no_cap_forbids_it(monkeypatch, flags, caps, types):
    monkeypatch.setattr(machine, "_processor", lambda: ("a processor", frozenset(flags.split())))
    for name in (*machine.CAPS, machine.KERNEL_CAP):
        monkeypatch.delenv(name, raising=False)
    for name, value in caps.items():
        monkeypatch.setenv(name, value)
    assert machine.hardware_dtypes("cpu") == types
    assert machine.caps() == caps
    assert machine.is_emulated("bf16") == (types == ["fp32"])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is of glibc")
def test_freed_memory_is_kept():
    script = (
        "import psutil, sys, torch\nfrom qalib.utils import machine\n"
        "if sys.argv[1] == 'keep': machine.keep_freed_memory()\n"
        "before = psutil.Process().memory_info().rss\ntensor = torch.ones(1 << 26)\ndel tensor\n"
        "print((psutil.Process().memory_info().rss - before) / 2**28)"
    )
    kept, given_back = (
        float(subprocess.run([sys.executable, "-c", script, way], capture_output=True, check=True, text=True).stdout)
        for way in ("keep", "give back")
    )
    assert kept > 0.9 and given_back < 0.1
