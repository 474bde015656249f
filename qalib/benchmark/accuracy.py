"""What a runtime's rounding costs: EM and F1 of its answers, beside the speeds in a table of `latency.compare`."""

import pandas as pd

from qalib import runtimes
from qalib.model.checkpoint import Checkpoint
from qalib.qa.evaluation import evaluate
from qalib.qa.squad import QuestionSet
from qalib.utils.errors import one_line


def with_scores(rows: pd.DataFrame, checkpoint: Checkpoint, questions: QuestionSet) -> pd.DataFrame:
    """`rows` with exact_match and f1 (%, by the official metric) of the checkpoint's answers in each row's runtime.

    The checkpoint may be another than that timed, as random weights have no F1. What was not timed has none, nor has
    another library's runtime that fails now, of which the remark says why.
    """
    pairs = rows[rows.median_seconds.notna()][["runtime", "dtype", "device"]].drop_duplicates()
    scores, failed = {}, {}
    for name, dtype, device in pairs.itertuples(index=False):
        try:
            module = runtimes.build(name, checkpoint, device, dtype)
            scores[name, dtype] = evaluate(module, checkpoint.tokenizer, questions, progress=False).score
        except Exception as error:
            if not runtimes.REGISTRY[name].peer:
                raise
            failed[name, dtype] = f"not scored: {one_line(error)}"
    keys = list(zip(rows.runtime, rows["dtype"], strict=True))
    remarks = ["; ".join(filter(None, (said, failed.get(key)))) for said, key in zip(rows.remark, keys, strict=True)]
    return rows.assign(
        exact_match=pd.Series([scores[key].exact_match if key in scores else None for key in keys], rows.index),
        f1=pd.Series([scores[key].f1 if key in scores else None for key in keys], rows.index),
        remark=remarks,
    )
