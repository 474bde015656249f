"""The one baseline of a speedup: the fastest dense run of the same run, of any type and library, that is exact.

Headlines, figures and sentences take ratios over it, in the column speedup_over_best. Ratios over dense of the same
type stand beside it in tables, in the column speedup.
"""

import pandas as pd

from qalib import runtimes


def over_fastest_dense(rows: pd.DataFrame, among: pd.Series | None = None) -> pd.DataFrame:
    """Add best_baseline, the name of the fastest dense row, and speedup_over_best, its median / each row's.

    `rows` are timed in one run: runtime, dtype, median_seconds (NaN where it was not run), and `way` or `model` if
    runtime and type do not name a row. `among` (bool) restricts the baseline to some of them.
    """
    dense = rows.runtime.map(is_dense) & rows.median_seconds.notna()
    best = rows[dense if among is None else dense & among].sort_values("median_seconds").iloc[0]
    name = best.get("way", f"{best.get('model', best.runtime)} {best['dtype']}")
    return rows.assign(best_baseline=name, speedup_over_best=best.median_seconds / rows.median_seconds)


def is_dense(name: str) -> bool:
    """Whether a runtime multiplies every zero and is exact."""
    return runtimes.REGISTRY[name].exact and not runtimes.REGISTRY[name].sparse


def is_ours(name: str) -> bool:
    """Whether a runtime of this project skips zeros and is exact."""
    return runtimes.REGISTRY[name].exact and runtimes.REGISTRY[name].sparse and not runtimes.REGISTRY[name].peer
