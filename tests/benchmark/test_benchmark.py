import copy
import json
import time

import pandas as pd
import pytest
import torch

from qalib import runtimes
from qalib.benchmark import accuracy, end_to_end, latency, memory, summary
from qalib.qa.answering import Answers
from qalib.qa.batching import PADDED
from qalib.qa.evaluation import evaluate
from qalib.report import plots
from qalib.runtimes.forward import Tf32
from qalib.utils import machine
from qalib.utils.errors import InputError
from qalib.utils.timing import Timing, interleave


def test_median_and_interquartile_range():
    timing = Timing((1.0, 2.0, 3.0, 4.0, 100.0))
    assert timing.median == 3 and timing.iqr == 2
    assert Timing((5.0,)).iqr == 0


def test_candidates_take_turns_and_warm_up_does_not_count():
    calls = []
    timings = interleave({n: lambda n=n: calls.append(n) for n in "ab"}, repeats=3, warmup=2, progress=False)
    assert calls == list("abbaabbaab") and [len(t.seconds) for t in timings.values()] == [3, 3]
    with pytest.raises(InputError, match="0 repeats"):
        interleave({}, repeats=0)


def test_the_bar_names_a_candidate_in_words(capsys):
    interleave({("dense", "fp32"): lambda: time.sleep(0.2)}, repeats=2)
    assert "round 3 of 3: dense fp32" in capsys.readouterr().err


def test_what_takes_far_longer_than_the_first_is_timed_twice_only():
    seconds, calls = {"dense": 0.02, "slow": 0.4, "fast": 0.0}, []

    def run(name):
        calls.append(name)
        time.sleep(seconds[name])

    candidates = {name: lambda name=name: run(name) for name in seconds}
    timings = interleave(candidates, repeats=4, progress=False, slow=5)
    assert {name: len(t.seconds) for name, t in timings.items()} == {"dense": 4, "slow": 2, "fast": 4}
    assert calls.count("slow") == 3 and timings["slow"].median >= 0.4
    assert len(interleave(candidates, repeats=1, progress=False, slow=5)["slow"].seconds) == 1


def test_compare(sparse):
    rows = latency.compare(sparse, ["compact"], ["fp32", "bf16"], 2, 16, repeats=3, progress=False)
    assert list(rows.runtime) == ["dense", "compact"] * 2 and list(rows["dtype"]) == ["fp32"] * 2 + ["bf16"] * 2
    dense, compact = rows.iloc[0], rows.iloc[1]
    assert dense.speedup == 1 and compact.speedup == pytest.approx(dense.median_seconds / compact.median_seconds)
    assert compact.bound > 1 and compact.baseline == "dense fp32"
    assert compact.tokens_per_second == pytest.approx(32 / compact.median_seconds)
    report = summary.report(rows)
    assert report["machine"]["CPU"] and len(report["rows"]) == 4


def test_the_baseline_is_the_fastest_dense_of_the_run_whatever_its_type(sparse, monkeypatch):
    paces = {("dense", "fp32"): 3.0, ("dense", "bf16"): 2.0, ("compact", "fp32"): 1.0, ("compact", "bf16"): 4.0}
    timings = {pair: Timing((seconds,) * 3) for pair, seconds in paces.items()}
    monkeypatch.setattr(latency, "interleave", lambda *_, **__: timings)
    rows = latency.compare(sparse, ["compact"], ["fp32", "bf16"], 1, 8, repeats=3, progress=False)
    assert rows.speedup.tolist() == [1, 3, 1, 0.5] and rows.speedup_over_best.tolist() == [2 / 3, 2, 1, 0.5]
    assert set(rows.best_baseline) == {"dense bf16"}
    found = summary.headline(rows, "cpu")
    assert (found.baseline, found.compact_dtype, found.compact_speedup) == ("dense bf16", "fp32", 2)
    assert found.compact_speedup_same_type == 3 and found.block_sparse_speedup is found.kernel is None


def test_a_figure_that_could_mislead_says_so(sparse, monkeypatch):
    timings = {("dense", t): Timing((9.0,)) for t in ("fp32", "bf16")}
    timings |= {("compact", t): Timing((0.1,)) for t in ("fp32", "bf16")}
    monkeypatch.setattr(latency, "interleave", lambda *_, **__: timings)
    monkeypatch.setattr(machine, "hardware_dtypes", lambda device: ["fp32"])
    rows = latency.compare(sparse, ["compact"], ["fp32", "bf16"], 1, 8, repeats=1, progress=False)
    assert rows.remark.str.contains("bf16 is emulated").tolist() == [False, False, True, True]
    beyond = rows.remark.str.contains("beyond the multiply-add ratio: it multiplies at")
    assert beyond.tolist() == [False, True, False, True]
    assert rows.remark.str.contains("a single round").all()
    assert latency.compare(sparse, ["compact"], None, 1, 8, repeats=1)["dtype"].tolist() == ["fp32"] * 2


def test_a_runtime_with_other_logits_is_not_timed(sparse, monkeypatch):
    def wrong(checkpoint, device, dtype):
        model = copy.deepcopy(checkpoint.model)
        torch.nn.init.constant_(model.qa_outputs.bias, 1.0)
        return model

    monkeypatch.setitem(runtimes.REGISTRY, "wrong", runtimes.Runtime("wrong", "", wrong))
    with pytest.raises(InputError, match="runtime wrong in fp32: a logit differs from dense by"):
        latency.compare(sparse, ["wrong"], batch=1, length=8, repeats=1, progress=False)
    monkeypatch.setitem(runtimes.REGISTRY, "wrong", runtimes.Runtime("wrong", "", wrong, opt_in=True))
    with pytest.raises(InputError, match="runtime wrong in fp32: a logit differs from dense by"):
        latency.compare(sparse, ["wrong"], batch=1, length=8, repeats=1, progress=False)
    theirs = runtimes.Runtime("wrong", "", wrong, opt_in=True, sparse=False)
    monkeypatch.setitem(runtimes.REGISTRY, "wrong", theirs)
    rows = latency.compare(sparse, ["compact", "wrong"], ["fp32"], batch=1, length=8, repeats=1, progress=False)
    assert rows.rounds.tolist() == [1, 1, 0]  # as other libraries' may be: the others are timed
    assert "runtime wrong in fp32: a logit differs from dense by" in rows.note[2]


def test_what_gives_no_numbers_is_not_timed_even_where_rounding_is_allowed(sparse, monkeypatch):
    def broken(checkpoint, device, dtype):
        model = copy.deepcopy(checkpoint.model)
        torch.nn.init.constant_(model.qa_outputs.bias, float("nan"))
        return model

    monkeypatch.setitem(runtimes.REGISTRY, "broken", runtimes.Runtime("broken", "", broken, exact=False, peer=True))
    rows = latency.compare(sparse, ["compact", "broken"], ["fp32"], batch=1, length=8, repeats=1, progress=False)
    assert rows.rounds.tolist() == [1, 1, 0] and "a logit is not a number" in rows.note[2]


def test_sizes_that_do_not_fit(sparse):
    with pytest.raises(InputError, match="batch 1 x length 513: at least 1 window of 1 to 512 tokens"):
        latency.compare(sparse, batch=1, length=513)


def test_evaluation_time(sparse, asked):
    rows = end_to_end.evaluation_time(sparse, asked, dtype="fp32", repeats=2, progress=False)
    usual, dense, compact = (rows.iloc[i] for i in range(3))
    assert usual.way == "usual way" and usual.speedup == 1 and usual.padded_tokens == 384 * usual.windows
    assert dense.padded_tokens < usual.padded_tokens and compact.padded_tokens == dense.padded_tokens
    assert compact.speedup == pytest.approx(dense.median_seconds / compact.median_seconds) and dense.speedup == 1
    assert (rows.speedup_over_best == rows.median_seconds[:2].min() / rows.median_seconds).all()
    assert (rows.same_answers == 1).all() and (rows.remark == "").all()
    assert all(len(seconds) == 2 for seconds in rows.round_seconds)


def test_an_evaluation_is_told_in_two_steps_from_the_usual_way_to_the_fastest(sparse, asked, monkeypatch):
    """The baseline is the fastest dense way, of any type; the way named is the fastest, not that of the type named."""
    paces = {"usual way": 12.0, "dense fp32": 4.0, "compact fp32": 2.0, "block-sparse fp32": 1.0, "dense bf16": 6.0,
             "compact bf16": 3.0, "block-sparse bf16": 1.5}  # fmt: skip
    paces = {way if way == "usual way" else f"{way}, by length": pace for way, pace in paces.items()}
    monkeypatch.setattr(machine, "hardware_dtypes", lambda device="cpu": ["fp32", "bf16"])
    monkeypatch.setattr(runtimes, "best", lambda device: "block-sparse")

    def timings(passes, *_, **__):
        return {way: run() or Timing((paces[way],) * 3) for way, run in passes.items()}

    monkeypatch.setattr(end_to_end, "interleave", timings)
    rows = end_to_end.evaluation_time(sparse, asked, repeats=3, progress=False)
    assert set(rows.way) == paces.keys() and set(rows.best_baseline) == {"dense fp32, by length"}
    assert rows.set_index("way").speedup["block-sparse bf16, by length"] == 4  # over dense of its type
    found = summary.evaluation_headline(rows, "eight questions")
    assert (found.evaluation_way, found.evaluation_baseline) == (
        "block-sparse fp32, by length",
        "dense fp32, by length",
    )
    assert (found.batching_speedup, found.evaluation_speedup, found.usual_speedup) == (3, 4, 12)
    paces["compact bf16, by length"] = 0.5
    rows = end_to_end.evaluation_time(sparse, asked, repeats=3, progress=False)
    assert summary.evaluation_headline(rows, "").evaluation_way == "compact bf16, by length"
    without = summary.evaluation_headline(rows[rows.runtime == "dense"], "")
    assert without.evaluation_way is without.evaluation_speedup is without.usual_speedup is None


def test_every_way_to_evaluate_is_warm_and_begins_in_turn(sparse, asked, monkeypatch):
    calls = []

    def answer(module, tokenizer, questions, batching, progress):
        calls.append((batching.sort_by_length, len(questions)))
        return Answers(
            texts={q.id: "" for q in questions},
            null_score_diffs={},
            windows=1,
            tokens=1,
            padded_tokens=1,
            seconds=1.0,
            model_seconds=1.0,
            processes=1,
        )

    monkeypatch.setattr(end_to_end, "answer", answer)
    ways = {"usual": end_to_end.Way("dense", PADDED), "sorted": end_to_end.Way("dense")}
    rows = end_to_end.evaluation_time(sparse, asked, repeats=2, progress=False, ways=ways)
    assert calls == [(False, 2), (True, 2), (False, 8), (True, 8), (True, 8), (False, 8)]
    single = end_to_end.evaluation_time(sparse, asked, repeats=1, progress=False, ways=ways)
    assert (rows.remark == "").all() and single.remark.str.contains("a single round").all()


def test_what_cannot_run_has_a_row_that_says_why(sparse, monkeypatch):
    away = runtimes.Runtime("away", "", None, unavailable_reason=lambda: "not installed: away")
    monkeypatch.setitem(runtimes.REGISTRY, "away", away)
    rows = latency.compare(sparse, ["away", "block-sparse"], ["fp32"], batch=1, length=8, repeats=1, progress=False)
    report = json.loads(json.dumps(summary.report(rows), allow_nan=False))
    dense, missing, ours = report["rows"]
    assert missing["note"] == "not installed: away" and missing["median_seconds"] is missing["speedup"] is None
    assert dense["note"] == ours["note"] == "" and ours["bound_reached"] == ours["speedup"] / ours["bound"]
    assert dense["weight_bytes"] == 4 * sum(p.numel() for p in sparse.model.parameters()) > ours["weight_bytes"] > 0
    labels = [text.get_text() for text in plots.speed.speedup(rows).axes[0].texts]
    assert labels[:2] == ["1.00x [1]", "not run: not installed: away"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("the compiler\ngave up"), "RuntimeError: the compiler gave up"),
        (InputError("blocks of (8, 8) are not for Triton"), "InputError: blocks of (8, 8) are not for Triton"),
        (ArithmeticError("of a kernel"), "ArithmeticError: of a kernel"),
    ],
)
def test_what_fails_has_a_row_that_says_so_and_the_others_are_timed(sparse, monkeypatch, error, said):
    def fails(checkpoint, device, dtype):
        raise error

    monkeypatch.setitem(runtimes.REGISTRY, "failing", runtimes.Runtime("failing", "", fails))
    rows = latency.compare(sparse, ["failing", "compact"], ["fp32"], 1, 8, repeats=1, progress=False)
    assert rows.note.tolist() == ["", f"failed: {said}", ""]
    assert rows.median_seconds.notna().tolist() == [True, False, True]
    monkeypatch.setitem(runtimes.REGISTRY, "dense", runtimes.Runtime("dense", "", fails))
    with pytest.raises(type(error), match="gave up|blocks of|of a kernel"):
        latency.compare(sparse, ["compact"], batch=1, length=8, repeats=1, progress=False)


def test_scores_stand_beside_what_was_timed(sparse, asked, monkeypatch):
    def fails_later(checkpoint, device, dtype, calls=[]):  # noqa: B006
        if calls:
            raise RuntimeError("no more")
        return calls.append(1) or copy.deepcopy(checkpoint.model)

    monkeypatch.setitem(runtimes.REGISTRY, "other", runtimes.Runtime("other", "", fails_later, peer=True))
    away = runtimes.Runtime("away", "", None, unavailable_reason=lambda: "not installed: away")
    monkeypatch.setitem(runtimes.REGISTRY, "away", away)
    names = ["away", "other", "block-sparse"]
    rows = latency.compare(sparse, names, ["fp32"], batch=1, length=8, repeats=2, progress=False)
    dense, missing, other, ours = accuracy.with_scores(rows, sparse, asked).to_dict("records")
    expected = evaluate(sparse.model, sparse.tokenizer, asked).score
    assert dense["f1"] == ours["f1"] == expected.f1 and ours["exact_match"] == expected.exact_match
    assert pd.isna(missing["f1"]) and pd.isna(other["f1"])
    assert other["remark"] == "not scored: RuntimeError: no more" and not ours["remark"].startswith("not scored")
    monkeypatch.setitem(runtimes.REGISTRY, "other", runtimes.Runtime("other", "", fails_later))
    with pytest.raises(RuntimeError, match="no more"):  # one of ours
        accuracy.with_scores(rows, sparse, asked)


def test_what_a_gpu_is_timed_with(monkeypatch):
    monkeypatch.setattr(machine, "has_tf32", lambda: True)
    pairs = latency.candidates(["compact"], ["fp32", "bf16"], "cuda")
    fp32, bf16 = [("dense", "fp32"), ("compact", "fp32")], [("dense", "bf16"), ("compact", "bf16")]
    assert pairs == [*fp32, *bf16, ("dense", "tf32")]
    assert latency.candidates(["compact"], ["bf16"], "cuda") == bf16
    assert latency.candidates(["compact"], ["fp32", "bf16"], "cpu") == fp32 + bf16
    monkeypatch.setattr(machine, "has_tf32", lambda: False)
    assert latency.candidates(["compact"], ["fp32"], "cuda") == fp32
    assert latency.round_counts(7, "cuda") == (50, 4) and latency.round_counts(99, "cuda") == (99, 4)
    assert latency.round_counts(7, "cpu") == (7, 1) and latency.round_counts(0, "cuda") == (0, 1)


@pytest.mark.parametrize("name", ["dense", "compact", "compact-graph"])
def test_no_candidate_has_a_mask(sparse, monkeypatch, name):
    """What is timed has no padding; a mask would keep attention from the flash kernel."""
    masks, attention = [], torch.nn.functional.scaled_dot_product_attention

    def seen(query, key, value, attn_mask=None, **more):
        masks.append(attn_mask)
        return attention(query, key, value, attn_mask=attn_mask, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", seen)
    module = runtimes.REGISTRY[name].build(sparse, torch.device("cpu"), torch.float32).eval()
    inputs = latency.random_inputs(sparse, 2, 32)
    latency.forward(module, inputs)
    assert len(masks) >= 2 and all(mask is None for mask in masks)
    masks.clear()
    latency.forward(module, inputs | {"attention_mask": torch.tensor([[1] * 32, [1] * 20 + [0] * 12])})
    assert masks and all(mask is not None for mask in masks)  # the test sees masks where there are some


def test_tf32_is_on_during_the_pass_only(sparse):
    with pytest.raises(InputError, match="runtime dense: tf32 is a type of GPUs"):
        runtimes.build("dense", sparse, dtype="tf32")
    assert runtimes.unavailable_reason("compact", "cuda", "tf32") == "is for fp32, bf16, not for tf32"
    during = []

    class Fails(torch.nn.Module):
        def forward(self, fail):
            during.append(torch.get_float32_matmul_precision())
            if fail:
                raise ValueError

    before = torch.get_float32_matmul_precision()
    module = Tf32(Fails())
    module(False)
    with pytest.raises(ValueError):
        module(True)
    assert during == ["high", "high"] and torch.get_float32_matmul_precision() == before != "high"


def test_peak_memory(sparse, monkeypatch):
    row = latency.compare(sparse, [], ["fp32"], 1, 8, repeats=1, progress=False).iloc[0]
    assert row.peak_bytes is None and "measured on a CPU" in row.peak_note
    held = {"now": 100, "most": 100}
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: held["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: held["most"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: held.update(most=held["now"]))
    held["most"] = 999  # of what ran before
    with latency.PeakMemory("cuda") as peak:
        held.update(now=130, most=170)
    assert peak.bytes == 70


def test_the_best_of_ours_and_of_others():
    columns = ["runtime", "dtype", "median_seconds", "best_baseline", "speedup_over_best"]
    timed = [("dense", "fp32", 9.0), ("openvino", "bf16", 3.0), ("block-sparse", "bf16", 1.5)]
    timed += [("onnxruntime-int8", "fp32", 4.0), ("torchao-int8", "bf16", None)]
    rows = pd.DataFrame([(*row, "openvino bf16", row[2] and 3.0 / row[2]) for row in timed], columns=columns)
    ours = {"ours": "block-sparse bf16", "baseline": "openvino bf16", "speedup": 2.0}
    assert summary.best(rows) == ours | {"peer": "openvino bf16", "ratio": 2.0}
    alone = summary.best(rows[:1])
    assert alone["ours"] == "dense fp32" and alone["peer"] is alone["ratio"] is None


def test_memory_is_measured_in_a_process_of_its_own(packed_folder):
    rows = memory.compare(str(packed_folder), ("dense",))
    assert rows.share[0] == 1 and rows.resident_bytes[0] > 100_000
