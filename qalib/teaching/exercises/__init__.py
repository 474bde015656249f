"""Exercises: verdicts on answers, students' notebooks without solutions, grading, and the capstone project."""

from qalib.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__, __path__, {"checks": ["Verdict", "check", "give"], "notebooks": ["student", "write"]}
)
