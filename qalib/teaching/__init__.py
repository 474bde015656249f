"""Teaching: a module a lesson, with what it measures and draws; exercises and their solutions."""

from qalib.teaching import common, distillation, exercises, heads, masks, model_card, movement, speed, weights

__all__ = ["common", "distillation", "exercises", "heads", "masks", "model_card", "movement", "speed", "weights"]
