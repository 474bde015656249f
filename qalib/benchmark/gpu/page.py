"""What was measured on a GPU as a page of Markdown; nothing is computed here but ratios of what is there."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Found = Mapping[str, Mapping[str, Any]]
KINDS = {
    "twin": "Structural twin of 0.32: its random blocks flatter block-sparse and hurt compact",
    "real": "Every kept block of 0.20 as published",
}
EVALUATION = ["runtime", "dtype", "data", "exact_match", "f1", "seconds", "model_seconds", "error"]
CARD = ["runtime", "dtype", "windows", "seconds", "model_seconds", "speedup", "speedup_in_all", "over", "error"]
TRAINING = [
    "run", "density", "precision", "batch", "windows", "seconds", "windows_per_second", "exact_match", "f1",
    "teacher_f1", "error",
]  # fmt: skip


def page(
    name: str, machine: Mapping[str, Any], ended: Sequence[Mapping[str, Any]], found: Found, rehearsal: str | None
) -> str:
    """The page of a run: how its parts ended, and what they found by part (`rows` as of `gpu.Rows`)."""
    lines = [f"# {name}", ""]
    if rehearsal:
        lines += [f"**{rehearsal[0].upper()}{rehearsal[1:]}.**", ""]
    lines += ["By `make gpu`. " + "; ".join(f"{key}: {value}" for key, value in machine.items()) + ".", ""]
    lines += table(ended, ["part", "how", "seconds"])
    if "checks" in found:
        lines += ["## Checks", "", *table(found["checks"]["rows"], ["passed", "failed", "skipped", "exit_code"])]
    if "kernels" in found:
        measured = found["kernels"]["rows"]
        lines += ["## What the card can do", "", *ceilings(measured)]
        lines += ["## Products of a layer, milliseconds in bf16", "", *kernels(measured)]
        lines += ["## Residual and LayerNorm, microseconds in bf16", "", *norms(measured)]
    for part, title in KINDS.items():
        if part in found:
            lines += [f"## {title}", "", *end_to_end(found[part]["rows"])]
    if "evaluation" in found:
        lines += ["## Whole evaluation", "", *table(rounded(found["evaluation"]["rows"]), EVALUATION)]
    if "card" in found:
        lines += ["## The twin in batches of 16, padded to 384 tokens, as the card timed it", ""]
        lines += table(rounded(found["card"]["rows"]), CARD)
    if "training" in found:
        lines += ["## Training", "", *table(rounded(found["training"]["rows"]), TRAINING)]
    return "\n".join(lines) + "\n"


def end_to_end(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a candidate and shape; over compiled dense it is the ratio of two speedups over dense of the type."""
    compiled = {
        (row["batch"], row["length"]): row["speedup"]
        for row in rows
        if (row["runtime"], row["dtype"]) == ("dense-compiled", "bf16") and row.get("speedup")
    }
    shown = []
    for row in rows:
        base = compiled.get((row["batch"], row["length"])) if row["dtype"] == "bf16" else None
        shown.append({
            "batch": f"{row['batch']} x {row['length']}",
            "runtime": row["runtime"],
            "type": row["dtype"],
            "ms": scaled(row.get("median_seconds"), 1e3),
            "spread ms": scaled(row.get("spread_seconds"), 1e3),
            "rounds": row.get("rounds"),
            "over dense of the type": scaled(row.get("speedup")),
            "over compiled dense": scaled(row["speedup"] / base) if base and row.get("speedup") else "",
            "peak MB": scaled(row.get("peak_bytes"), 1e-6),
            "logits differ by": scaled(row.get("logit_difference")),
            "multiplied by": row.get("kernel"),
            "remark": row.get("error") or row.get("note") or row.get("remark"),
        })  # fmt: skip
    return table(shown, list(shown[0])) if shown else ["Nothing was measured.", ""]


def ceilings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a rate of the card's."""
    return table(rounded(row for row in rows if row["kind"] == "ceiling"), ["way", "value", "unit", "error"])


def kernels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a product and number of tokens: dense, compact, and the fastest panels with their size."""
    shown = []
    for (kind, product, tokens, kept), ways in grouped(rows, *KINDS).items():
        times, failed = milliseconds(ways), failures(ways)
        best = min((way for way in times if way.startswith("panels")), key=times.__getitem__, default=None)
        shown.append({
            "model": kind, "product": product, "tokens": tokens, "kept of compact": scaled(kept),
            "dense": scaled(times.get("dense")), "compact": scaled(times.get("compact")),
            "panels": scaled(times[best]) if best else "", "size": best or "", "failed": failed,
        })  # fmt: skip
    return table(shown, list(shown[0])) if shown else ["Nothing was measured.", ""]


def norms(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a width and number of tokens: torch's kernels, and ours in its fastest size."""
    shown = []
    for (_, product, tokens, _), ways in grouped(rows, "norm").items():
        times = milliseconds(ways)
        best = min((way for way in times if way != "torch"), key=times.__getitem__, default=None)
        shown.append({
            "of": product, "tokens": tokens, "torch": scaled(times.get("torch"), 1e3),
            "kernel": scaled(times[best], 1e3) if best else "", "size": best or "", "failed": failures(ways),
        })  # fmt: skip
    return table(shown, list(shown[0])) if shown else ["Nothing was measured.", ""]


def grouped(rows: Sequence[Mapping[str, Any]], *kinds: str) -> dict[tuple, list[Mapping[str, Any]]]:
    """The rows of some kinds by kind, product, tokens and what is kept."""
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["kind"] in kinds:
            groups.setdefault((row["kind"], row["product"], row["tokens"], row.get("kept")), []).append(row)
    return groups


def milliseconds(ways: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The times of the ways that have one."""
    return {row["way"]: row["milliseconds"] for row in ways if row.get("milliseconds") is not None}


def failures(ways: Sequence[Mapping[str, Any]]) -> str:
    """How many ways failed, and why the first of them did."""
    failed = [row for row in ways if row.get("error")]
    return f"{len(failed)} of {len(ways)}, as {failed[0]['error']}" if failed else ""


def rounded(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their broken numbers as texts of four digits."""
    return [{key: f"{v:.4g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows]


def scaled(value: float | None, factor: float = 1.0) -> str:
    """Three significant digits; nothing for None."""
    return "" if value is None else f"{factor * value:.3g}"


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """The rows as lines of Markdown, and an empty one."""
    cells = [["" if row.get(column) is None else str(row.get(column)) for column in columns] for row in rows]
    texts = [[cell.replace("|", "\\|") for cell in line] for line in [list(columns), ["---"] * len(columns), *cells]]
    return [f"| {' | '.join(line)} |" for line in texts] + [""]
