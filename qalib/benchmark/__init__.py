"""Benchmark: latency side by side, over sweeps, and part by part."""

from qalib.benchmark import latency, profile, sweep

__all__ = ["latency", "profile", "sweep"]
