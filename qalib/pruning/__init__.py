"""Pruning: movement and magnitude, and the training runs that they are part of."""

from qalib.pruning import callback, dataset, magnitude, minimal, movement, run_folder, schedule, teacher, trainer

__all__ = ["callback", "dataset", "magnitude", "minimal", "movement", "run_folder", "schedule", "teacher", "trainer"]
