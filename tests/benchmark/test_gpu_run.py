"""`make gpu`, rehearsed on the CPU with a tiny model: every part writes its rows, and says that it was a rehearsal."""

import dataclasses

import pytest
from builders import squad_file, towns

from qalib import runtimes
from qalib.benchmark import latency
from qalib.benchmark.gpu import evaluations, kernels, models, settings, training
from qalib.benchmark.gpu.settings import Rows, Settings
from qalib.runtimes.gpu.add_norm import SIZES
from qalib.utils.files import read_json


@pytest.fixture
def small(packed_folder, asked_file, dense_folder, tmp_path):
    """Everything in its smallest size, on the CPU."""
    return Settings(
        tmp_path / "out",
        "cpu",
        masks=tmp_path / "absent.json",
        data=str(asked_file),
        train_data=str(squad_file(tmp_path / "towns.json", towns())),
        teacher=str(dense_folder),
        minutes=0.02,
        shapes=((1, 32),),
        tokens=(8,),
        widths=(48,),
        side=16,
        candidates=(
            ("compact", "fp32"), ("compact-graph", "fp32"), ("pytorch-block-sparse", "fp32"), ("compact", "bf16"),
        ),
        evaluated=("dense", "compact-graph"),
        on_the_card=(("dense", "fp32"), ("compact-graph", "fp32"), ("pytorch-block-sparse", "fp32")),
        questions=4,
        training=(("block", (4, 4)), ("teacher_cache", tmp_path / "teachers"), ("precision", "fp32")),
        models=tuple((part, str(packed_folder)) for part in ("twin", "real", "evaluation", "card")),
    )  # fmt: skip


def rows(given, part):
    found = read_json(given.out / f"{part}.json")
    assert found["rehearsal"] == "rehearsal on a CPU: no figure here says anything of a GPU" and found["machine"]["CPU"]
    return found["rows"]


def test_runtimes_end_to_end(small):
    """A runtime that fails has a row that says why."""
    with settings.opened(small):
        models.end_to_end(small, "twin")
    assert "cuda" in runtimes.REGISTRY["compact-graph"].devices  # closed again
    found = {(row["runtime"], row["dtype"]): row for row in rows(small, "twin")}
    assert len(found) == len(rows(small, "twin"))
    names = ["dense", "compact", "compact-graph", "pytorch-block-sparse"]
    assert list(found) == [(name, "fp32") for name in names] + [("dense", "bf16"), ("compact", "bf16")]
    graph = found["compact-graph", "fp32"]
    assert graph["speedup"] > 0 and graph["logit_difference"] < 1e-3 and graph["kernel"] == "dense"
    assert graph["peak_bytes"] is None
    assert found["pytorch-block-sparse", "fp32"]["note"] == "is for cuda, not for cpu"


def test_a_runtime_with_other_logits_leaves_the_others_their_rows(small, monkeypatch):
    difference = latency.difference

    def wrong(name, *rest):
        return difference(name, *rest) if name != "compact-graph" else difference(name, rest[0], rest[1] + 9, rest[2])

    monkeypatch.setattr(latency, "difference", wrong)
    few = (("compact-graph", "fp32"), ("compact", "fp32"), ("pytorch-block-sparse", "fp32"))
    with settings.opened(small):
        models.end_to_end(dataclasses.replace(small, candidates=few), "twin")
    found = rows(small, "twin")
    assert [row["runtime"] for row in found] == ["compact-graph", "dense", "compact", "pytorch-block-sparse"]
    assert "a logit differs from dense by" in found[0]["error"] and found[2]["speedup"] > 0


def test_candidates_of_a_type_are_timed_side_by_side(small, monkeypatch):
    """In one run, so that compiled dense and the runtimes take turns."""
    compared, compare = [], latency.compare

    def noted(loaded, names, dtypes, *rest, **more):
        compared.append((tuple(names), *dtypes))
        return compare(loaded, names, dtypes, *rest, **more)

    monkeypatch.setattr(latency, "compare", noted)
    fine = (("compact", "fp32"), ("compact-graph", "fp32"), ("compact", "bf16"))
    with settings.opened(small):
        models.end_to_end(dataclasses.replace(small, candidates=fine), "real")
    assert compared == [(("compact", "compact-graph"), "fp32"), (("compact",), "bf16")]
    assert [row["runtime"] for row in rows(small, "real")] == ["dense", "compact", "compact-graph", "dense", "compact"]


def test_ceilings_products_and_norms(small):
    kernels.kernels(dataclasses.replace(small, models=small.models[:1]))  # without the masks of 0.20
    found = rows(small, "kernels")
    assert {row["kind"] for row in found} == {"ceiling", "twin", "norm"}
    ceilings = {row["unit"]: row["value"] for row in found if row["kind"] == "ceiling"}
    assert ceilings.keys() == {"TFLOP/s", "GB/s"} and min(ceilings.values()) > 0
    products = [row for row in found if row["kind"] == "twin"]
    assert len({row["product"] for row in products}) == 4
    timed = {row["way"]: row.get("milliseconds") for row in products if row["product"] == "FFN in"}
    assert timed["dense"] > 0 and timed["compact"] > 0
    panels = [row for row in products if row["way"].startswith("panels")]
    assert panels and all("blocks of (8, 8) are not for Triton" in row["error"] for row in panels)
    norms = {row["way"]: row for row in found if row["kind"] == "norm"}
    assert list(norms) == ["torch", *(f"kernel {size}" for size in SIZES)]
    assert norms["torch"]["milliseconds"] > 0 and norms["torch"]["product"] == "residual, norm of 48"
    assert all(row.get("error") for way, row in norms.items() if way != "torch")  # no GPU, or no Triton


def test_whole_evaluation(small):
    with settings.opened(small):
        evaluations.evaluate(small)
    dense, ours = rows(small, "evaluation")
    assert dense["f1"] == ours["f1"] and ours["seconds"] > 0 and ours["device"] == "cpu"


def test_evaluation_as_the_card_timed_it(small, monkeypatch):
    batchings, answer = [], evaluations.answer

    def noted(model, tokenizer, questions, batching, progress):
        batchings.append((len(questions), batching))
        return answer(model, tokenizer, questions, batching, progress)

    monkeypatch.setattr(evaluations, "answer", noted)
    monkeypatch.setattr(evaluations, "WARMUP", 1)
    with settings.opened(small):
        evaluations.card(small)
    first, ours, failed = rows(small, "card")
    assert (first["speedup"], first["speedup_in_all"]) == (1, 1) and "is for cuda, not for cpu" in failed["error"]
    assert ours["over"] == "dense fp32" and ours["speedup"] == first["model_seconds"] / ours["model_seconds"]
    assert first["padded_tokens"] == 384 * first["windows"] and first["windows"] == ours["windows"] == 4
    assert [count for count, _ in batchings] == [1, 4, 1, 4]
    assert {(b.batch_size, b.sort_by_length, b.pad_to) for _, b in batchings} == {(16, False, 384)}


def test_training(small):
    training.train(small)
    found = {row["run"]: row for row in rows(small, "training")}
    assert list(found) == ["dense, without a teacher", "movement", "magnitude"]
    for row in found.values():
        seconds = row["seconds"]  # to a tenth: of so small a run it may be 0
        assert row["windows"] > 0 and row["windows_per_second"] == (row["windows"] / seconds if seconds else None)
        assert 0 <= row["f1"] <= 100 and row["precision"] == "fp32" and row["device"] == "cpu"
    assert [row["method"] for row in found.values()] == ["fixed-mask", "movement", "magnitude"]
    assert found["movement"]["density"] <= 0.317 < found["dense, without a teacher"]["density"]


def test_a_training_run_that_fails_leaves_the_others(small, monkeypatch):
    def one(values, given):
        if values["method"] == "movement":
            raise RuntimeError("out of memory")
        return {"windows": 7}

    monkeypatch.setattr(training, "one", one)
    training.train(small)
    told = [(row["run"], row.get("windows"), row.get("error")) for row in rows(small, "training")]
    assert told[1:] == [("movement", None, "RuntimeError: out of memory"), ("magnitude", 7, None)]


def test_rows_are_kept_one_by_one(small):
    kept = Rows(small, "kernels")
    for number in range(3):
        kept.add({"way": number})
        assert [row["way"] for row in rows(small, "kernels")] == list(range(number + 1))
