"""The processor's energy counters, in a folder that looks as Linux has them."""

import pytest

from qalib.benchmark import energy


@pytest.fixture
def zones(tmp_path, monkeypatch):
    """Two packages and a part of one, which must not be counted twice; returns a function that sets a counter."""
    monkeypatch.setattr(energy, "ZONES", tmp_path)

    def count(zone: str, name: str, microjoules: int) -> None:
        (tmp_path / zone).mkdir(exist_ok=True)
        for file, text in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", 10_000_000)):
            (tmp_path / zone / file).write_text(f"{text}\n")

    count("intel-rapl:0", "package-0", 1_000_000)
    count("intel-rapl:1", "package-1", 9_500_000)
    count("intel-rapl:0:0", "core", 500_000)
    return count


def test_packages_are_added_and_a_full_counter_begins_again(zones):
    with energy.EnergyMeter() as used:
        zones("intel-rapl:0", "package-0", 3_000_000)
        zones("intel-rapl:1", "package-1", 500_000)
        zones("intel-rapl:0:0", "core", 900_000)
    assert used.joules == 2.0 + 1.0


def test_what_cannot_be_read_is_none(zones, tmp_path):
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()  # as for all but root
    with energy.EnergyMeter() as used:
        pass
    assert used.joules is None


def test_no_counters(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "ZONES", tmp_path / "none")
    with energy.EnergyMeter() as used:
        pass
    assert used.joules is None
