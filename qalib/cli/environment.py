"""The command that describes the environment, for a bug report."""

from qalib.cli.console import Json, print_groups, print_json


def env(as_json: Json = False) -> None:
    """Print what a bug report needs: versions, processor, caps, the kernel's instructions, available runtimes."""
    from qalib import runtimes
    from qalib.runtimes.cpu import instruction_sets
    from qalib.utils import machine

    kernel = instruction_sets.unavailable_reason() or ", ".join(instruction_sets.available())
    place = machine.device()
    reasons = {name: runtimes.unavailable_reason(name, place) or "available" for name in runtimes.REGISTRY}
    if as_json:
        print_json({"versions": machine.versions(), "machine": machine.specs(), "kernel": kernel, "runtimes": reasons})
        return
    specs = machine.specs() | {"block-sparse kernel": kernel}
    print_groups({"versions": machine.versions(), "machine": specs, f"runtimes on {place}": reasons})
