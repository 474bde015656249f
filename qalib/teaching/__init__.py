"""Teaching: a module a lesson, with what it measures and draws; exercises and their solutions."""

import lazy_loader

MODULES = "algorithms capstone common distillation exercises from_scratch heads masks model_card movement speed weights"
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, set(MODULES.split()))
