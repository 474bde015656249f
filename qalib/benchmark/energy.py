"""Energy: what the processor took, by its own counters (RAPL), where the system has them and lets them be read."""

from pathlib import Path

ZONES = Path("/sys/class/powercap")  # https://docs.kernel.org/power/powercap/powercap.html; on AMD too


class EnergyMeter:
    """In a `with` block: `joules` is what all processor packages took meanwhile, for this process and all others.

    None where no counter can be read: in most virtual machines, and for most users but root.
    """

    joules: float | None = None

    def __enter__(self) -> "EnergyMeter":
        self.joules, self.before = None, _read()
        return self

    def __exit__(self, *error: object) -> None:
        after = _read()
        if self.before and self.before.keys() == after.keys():
            self.joules = sum(_passed(zone, self.before[zone], after[zone]) for zone in after) / 1e6


def _read() -> dict[Path, int]:
    """Microjoules of every package; nothing if there is none, or one that cannot be read."""
    try:
        zones = [zone for zone in ZONES.glob("*:*") if (zone / "name").read_text().startswith("package")]
        return {zone: int((zone / "energy_uj").read_text()) for zone in zones}
    except OSError:
        return {}


def _passed(zone: Path, before: int, after: int) -> int:
    """Microjoules from one reading to the next: a counter that is full begins again."""
    return after - before if after >= before else after - before + int((zone / "max_energy_range_uj").read_text())
