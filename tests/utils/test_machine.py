import platform
import subprocess
import sys

import psutil
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


@pytest.mark.parametrize(
    "membership, files, expected",
    [
        ("0::/pod/box\n", {"pod/memory.max": "2000000", "pod/box/memory.max": "max"}, 2_000_000),
        ("0::/\n", {"memory.max": "max"}, None),
        ("3:cpu:/\n4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "1000000", "cpu/memory.max": "5"}, 1_000_000),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("", {}, None),
    ],
)
def test_memory_is_what_cgroups_grant(monkeypatch, tmp_path, membership, files, expected):
    (tmp_path / "cgroup").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    monkeypatch.setattr(machine, "MEMBERSHIP", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "fs")
    monkeypatch.setattr(machine.resource, "getrlimit", lambda kind: (machine.resource.RLIM_INFINITY,) * 2)
    assert machine.memory_limit() == (expected or psutil.virtual_memory().total)
    monkeypatch.setattr(machine.resource, "getrlimit", lambda kind: (500_000, 500_000))
    assert machine.memory_limit() == 500_000


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
