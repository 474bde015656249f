"""Teaching: the lessons of the course, with what they measure and draw, and the exercises that check themselves.

A notebook says `teaching.heads` for `qalib.teaching.lessons.heads`.
"""

import sys

from qalib.teaching import lessons
from qalib.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__, __path__, {"lessons": lessons.__all__, "exercises": ["capstone", "from_scratch"]}
)

if "ipykernel" in sys.modules:  # in a notebook
    from qalib.report.tables import style_notebook as _style_notebook

    _style_notebook()
