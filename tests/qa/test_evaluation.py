import functools
import itertools
import threading
import weakref

import numpy as np
import pytest
import torch

from qalib import runtimes
from qalib.qa import answering, evaluation, squad
from qalib.qa.answering import answer, best_spans
from qalib.qa.batching import LENGTH_SORTED, PADDED, BatchingConfig
from qalib.qa.evaluation import by_group, evaluate, question_word, worst
from qalib.qa.windows import Window, windows


def window(first, spans, length):
    return Window(0, np.zeros(length), np.zeros(length), first, np.array(spans), np.zeros(len(spans)))


def by_brute_force(starts, ends, first, count):
    places = range(first, first + count)
    top = [sorted(places, key=lambda i: -logits[i])[:20] for logits in (starts, ends)]
    pairs = [(s, e) for s, e in itertools.product(*top) if 0 <= e - s < 30]
    return max(((starts[s] + ends[e], s, e) for s, e in pairs), default=None)


def test_best_spans_are_those_of_brute_force():
    generator = torch.Generator().manual_seed(0)
    for length, first, count in [(60, 8, 50), (12, 3, 8), (90, 5, 84), (6, 4, 1)]:
        starts, ends = torch.randn(2, 1, length, generator=generator)
        spans = [(10 * i, 10 * i + 9) for i in range(count)]
        ((score, start, end),) = best_spans(starts, ends, [window(first, spans, length)])
        expected, s, e = by_brute_force(starts[0].tolist(), ends[0].tolist(), first, count)
        assert score == pytest.approx(expected) and (start, end) == (10 * (s - first), 10 * (e - first) + 9)


def test_an_answer_has_at_most_30_tokens_and_never_ends_before_it_starts():
    starts, ends = torch.full((2, 1, 50), -1.0)
    starts[0, 10], ends[0, 5], ends[0, 45], ends[0, 39] = 9, 9, 9, 3
    ((score, start, end),) = best_spans(starts, ends, [window(1, [(i, i + 1) for i in range(48)], 50)])
    assert (score, start, end) == (12, 9, 39)


def test_the_answers_do_not_depend_on_batches_order_or_padding(sparse, asked):
    questions = asked.questions
    runs = [
        answer(sparse.model, sparse.tokenizer, questions, batching, progress=False)
        for batching in (
            LENGTH_SORTED,
            PADDED,
            BatchingConfig(batch_size=3),
            BatchingConfig(batch_size=1, sort_by_length=False),
        )
    ]
    assert all(run.texts == runs[0].texts for run in runs) and list(runs[0].texts) == [q.id for q in questions]
    assert all(q.context.find(runs[0].texts[q.id]) >= 0 for q in questions)
    ours, usual = runs[:2]
    assert ours.tokens == usual.tokens <= ours.padded_tokens < usual.padded_tokens == 384 * usual.windows


def test_chunks_change_nothing(sparse, asked, monkeypatch):
    questions = asked.questions
    whole = answer(sparse.model, sparse.tokenizer, questions, progress=False)
    monkeypatch.setattr(answering, "CHUNK", 4)
    parts = answer(sparse.model, sparse.tokenizer, questions, progress=False)
    assert whole.texts == parts.texts and whole.windows == parts.windows


def test_chunks_of_long_contexts_hold_fewer_questions(sparse, asked, monkeypatch):
    sizes = [len(q.question) + len(q.context) for q in asked.questions]
    monkeypatch.setattr(answering, "CHUNK_CHARACTERS", sum(sizes[:3]))
    parts = [
        chunk for chunk, _ in answering.chunks(sparse.tokenizer, asked.questions, LENGTH_SORTED, torch.device("cpu"))
    ]
    assert sum(parts, ()) == asked.questions and len(parts[0]) == 3
    assert all(len(part) == 1 or sum(len(q.question + q.context) for q in part) <= sum(sizes[:3]) for part in parts)


def test_windows_of_a_chunk_are_gone_when_the_next_is_cut(sparse, asked, monkeypatch):
    made, alive = [], []

    def cut(tokenizer, questions, contexts):
        alive.append({chunk for chunk, window in made if window() is not None})
        found = windows(tokenizer, questions, contexts)
        made.extend((len(alive), weakref.ref(window)) for window in found)
        return found

    monkeypatch.setattr(answering, "CHUNK", 2)
    monkeypatch.setattr(answering, "windows", cut)
    answer(sparse.model, sparse.tokenizer, asked.questions[:8], progress=False)
    assert alive == [set()] * 4


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Windows are cut two questions at a time, in the thread that does it for a GPU; the threads that cut, in order."""
    threads = []

    def cut(*given):
        threads.append(threading.current_thread())
        return windows(*given)

    ahead = functools.partial(answering.chunks, device=torch.device("cuda"))
    monkeypatch.setattr(answering, "chunks", lambda tokenizer, questions, batching, device: (
        ahead(tokenizer, questions, batching)))  # fmt: skip
    monkeypatch.setattr(answering, "CHUNK", 2)
    monkeypatch.setattr(answering, "windows", cut)
    return threads


@pytest.mark.parametrize("batching", [LENGTH_SORTED, PADDED, BatchingConfig(batch_size=3)])
def test_windows_cut_in_a_thread_give_exactly_the_same(sparse, asked, batching, request, monkeypatch):
    monkeypatch.setattr(answering, "CHUNK", 2)
    alone = answer(sparse.model, sparse.tokenizer, asked.questions, batching, progress=False)
    threads = request.getfixturevalue("as_on_a_gpu")
    ahead = answer(sparse.model, sparse.tokenizer, asked.questions, batching, progress=False)
    assert len(threads) == 4 and threading.current_thread() not in threads
    for name in ("texts", "null_score_diffs", "windows", "tokens", "padded_tokens"):
        assert getattr(alone, name) == getattr(ahead, name), name


def test_on_a_cpu_nothing_is_cut_in_a_thread(sparse, asked, monkeypatch):
    threads = []

    def cut(*given):
        threads.append(threading.current_thread())
        return windows(*given)

    monkeypatch.setattr(answering, "windows", cut)
    answer(sparse.model, sparse.tokenizer, asked.questions, progress=False)
    assert threads == [threading.current_thread()]


def test_the_next_windows_are_cut_while_the_model_runs(sparse, asked, as_on_a_gpu):
    """The model does not come to the end of its first pass before the second chunk has been cut."""
    second = threading.Event()

    class Slow(torch.nn.Module):
        def forward(self, **inputs):
            while len(as_on_a_gpu) < 2 and not second.wait(0.01):
                pass
            return sparse.model(**inputs)

    timer = threading.Timer(60, second.set)
    timer.start()
    found = answer(Slow(), sparse.tokenizer, asked.questions, progress=False)
    timer.cancel()
    assert not second.is_set() and len(found.texts) == len(asked.questions)


def test_errors_of_model_and_tokenizer_end_the_thread(sparse, asked, as_on_a_gpu, monkeypatch):
    def broken(*given, **named):
        raise RuntimeError("broken")

    model = torch.nn.Module()
    model.forward = broken
    with pytest.raises(RuntimeError, match="broken"):
        answer(model, sparse.tokenizer, asked.questions, progress=False)
    assert not any(thread.is_alive() for thread in as_on_a_gpu)
    monkeypatch.setattr(answering, "windows", broken)
    with pytest.raises(RuntimeError, match="broken"):
        answer(sparse.model, sparse.tokenizer, asked.questions, progress=False)


def test_compact_answers_the_same(sparse):
    asked = squad.load("sample").first(20)
    dense = evaluate(runtimes.build("dense", sparse), sparse.tokenizer, asked, progress=False)
    compact = evaluate(runtimes.build("compact", sparse), sparse.tokenizer, asked, progress=False)
    assert dense.answers.texts == compact.answers.texts and dense.score == compact.score
    assert dense.rows.f1.mean() * 100 == pytest.approx(dense.score.f1)


def test_groups_and_worst(sparse):
    asked = squad.load("sample").first(20)
    rows = evaluate(sparse.model, sparse.tokenizer, asked, progress=False).rows
    words = by_group(rows, "question_word")
    assert words.questions.sum() == 20 and set(words.columns) == {"question_word", "exact_match", "f1", "questions"}
    lengths = by_group(rows, "answer_words", (1, 2, 4))
    assert lengths.questions.sum() == 20 and set(lengths.answer_words) <= {"1", "2 to 3", "4 or more"}
    table = worst(rows, 5)
    assert len(table) == 5 and table.f1.is_monotonic_increasing


def test_a_score_on_anything_but_all_of_dev_is_not_held_against_published_ones(sparse):
    asked = squad.load("sample").first(4)
    found = evaluate(sparse.model, sparse.tokenizer, asked, progress=False)
    assert found.score.f1 is not None and found.comparable_score.f1 is found.comparable_score.exact_match is None
    assert found.comparable_score.total == 4
    dev = squad.QuestionSet(asked.questions * 2642 + asked.questions[:2], "dev", "dev-v1.1.json", "")
    assert evaluation.Evaluation(found.score, found.answers, dev).comparable_score == found.score


@pytest.mark.parametrize(
    "text, word",
    [("In which year?", "which"), ("WHO was it?", "who"), ("Name the city.", "other"), ("The what?", "what")],
)
def test_question_word(text, word):
    assert question_word(text) == word


def test_the_dense_teacher_scores_as_measured_elsewhere(shared):
    from qalib.model import checkpoint

    teacher = checkpoint.load(shared / "models" / "minilm-l6-squad-dense")
    asked = squad.load(str(shared / "squad" / "dev-v1.1.json")).first(120)
    result = evaluate(teacher.model, teacher.tokenizer, asked, progress=False)
    assert result.score.f1 > 60 and result.score.missing == 0
