import numpy as np
import pytest
import torch

from qalib import pipeline
from qalib.pruning import dataset
from qalib.qa import answering, squad
from qalib.qa import windows as qa_windows
from qalib.qa.batching import LENGTH_SORTED, padded
from qalib.qa.spans import word_spans
from qalib.qa.windows import collate, count_2019, extends, windows


def test_windows_overlap_and_cover(sparse):
    context = " ".join("abcdefghij"[i % 10] for i in range(100))
    cut = windows(sparse.tokenizer, ["who?"], [context], max_length=30, overlap=8, max_question=5)
    room = 30 - 3 - 2  # [CLS] who ? [SEP] ... [SEP]
    assert [len(w.offsets) for w in cut[:-1]] == [room] * (len(cut) - 1) and len(cut[-1].offsets) <= room
    for one, two in zip(cut, cut[1:], strict=False):
        assert (one.offsets[-8:] == two.offsets[:8]).all()
    covered = np.unique(np.concatenate([w.offsets[:, 0] for w in cut]))
    assert len(covered) == 100 and all(w.first == 4 and w.index == 0 for w in cut)


def test_many_pairs_are_tokenized_in_parts(sparse, asked, monkeypatch):
    pairs = [q.question for q in asked.questions], [q.context for q in asked.questions]
    whole, sizes = windows(sparse.tokenizer, *pairs, 24, 4, 6), []
    monkeypatch.setattr(qa_windows, "CHARACTERS", 60)
    encode = qa_windows._encode
    monkeypatch.setattr(qa_windows, "_encode", lambda t, *texts, **o: sizes.append(texts) or encode(t, *texts, **o))
    parts = windows(sparse.tokenizer, *pairs, 24, 4, 6)
    sizes = [
        sum(map(len, questions + contexts[0])) for questions, *contexts in sizes if contexts and len(questions) > 1
    ]
    assert sizes and max(sizes) <= 60
    for one, two in zip(whole, parts, strict=True):
        assert one.index == two.index and one.first == two.first
        assert all((getattr(one, name) == getattr(two, name)).all() for name in ("ids", "types", "offsets", "words"))


def test_offsets_give_the_text_back(sparse):
    context = "  Zoë  ate an orange. "
    (window,) = windows(sparse.tokenizer, ["who?"], [context])
    assert [context[a:b] for a, b in window.offsets][0].startswith("Z")
    assert window.types[window.first] == 1 and window.types[window.first - 1] == 0


@pytest.mark.parametrize(
    "mark", ["\u0301", "\u0301\u0323", "\ufe0f", "\u20dd", "\u200d", "\u200c", "\u094d\u200d", "\U000e0067\U000e007f"]
)
def test_a_span_has_the_marks_of_its_last_letter(sparse, mark):
    context = f"Jose{mark} e{mark}t. Jose, {mark}it ({mark})"
    (window,) = windows(sparse.tokenizer, ["who?"], [context])
    texts = {context[a:b] for a, b in window.offsets} | {context[a:b] for a, b in word_spans(window)}
    assert {f"Jose{mark}", "Jose"} <= texts
    ends = {b for _, b in window.offsets}
    assert all(at == len(context) or at not in ends or not extends(context[at]) for at in range(1, len(context) + 1))


def test_an_answer_has_the_marks_of_its_last_letter(sparse):
    """In training, evaluation and the pipeline alike."""
    context = "The book was written in 1902 by Jose\u0301."
    question = squad.Question("q", "t", "Who?", context, ("Jose\u0301",), (32,))
    (window,) = windows(sparse.tokenizer, [question.question], [context])
    first, last = dataset.answer_position(window, question)
    assert context[window.offsets[first - window.first][0] : window.offsets[last - window.first][1]] == "Jose\u0301"
    starts, ends = (torch.arange(len(window))[None] == at for at in (first, last))
    ((_, start, end),) = answering.best_spans(starts.float(), ends.float(), [window])
    assert context[start:end] == "Jose\u0301"
    ask = pipeline(model=sparse)
    for align in (True, False):
        answers = ask(question="Who?", context=context, top_k=20, align_to_words=align)
        texts = {answer["answer"] for answer in answers if context.startswith("\u0301", answer["end"])}
        assert not texts and any(answer["answer"].endswith("Jose\u0301") for answer in answers)


def test_long_questions_are_cut(sparse):
    (window,) = windows(sparse.tokenizer, ["a " * 200], ["b c d"], max_question=64)
    assert window.first == 1 + 64 + 1


def test_one_character_can_be_several_tokens(sparse):
    (window,) = windows(sparse.tokenizer, ["한" * 60], ["b c d"], max_question=64)
    assert window.first <= 1 + 64 + 1


def test_no_room(sparse):
    with pytest.raises(ValueError, match="windows of 100 tokens have no room for 64 question tokens, an overlap of 64"):
        windows(sparse.tokenizer, ["q"], ["c"], max_length=100, overlap=64)


def test_collate_pads(sparse):
    cut = windows(sparse.tokenizer, ["a b", "a"], ["c d e", "c"])
    batch = collate(cut, pad_id=7)
    assert batch["input_ids"].shape == (2, len(cut[0])) and batch["input_ids"][1, -1] == 7
    assert batch["attention_mask"].sum(1).tolist() == [len(w) for w in cut]
    assert torch.equal(batch["token_type_ids"][0], torch.from_numpy(cut[0].types).long())
    assert collate(cut, pad_id=0, length=20)["input_ids"].shape == (2, 20)


def test_only_a_batch_with_padding_has_a_mask(sparse):
    cut = windows(sparse.tokenizer, ["a b", "a", "a"], ["c " * 27, "c " * 28, "c"])
    alike, padding = padded(cut[:2], 0, LENGTH_SORTED), padded(cut[1:], 0, LENGTH_SORTED)
    assert alike["input_ids"].shape == (2, 32) and "attention_mask" not in alike
    assert padding["attention_mask"].sum(1).tolist() == [32, len(cut[2])]


def test_windows_of_2019_by_hand(sparse):
    context = " ".join("abcdefghij"[i % 10] for i in range(30))
    # 12 tokens less 3 special and 1 of the question leave room for 8; then a start every 5: 8, 13, 18, 23, 28, 33.
    assert count_2019(sparse.tokenizer, ["a"], [context], max_length=12, start_distance=5) == 6
    assert count_2019(sparse.tokenizer, ["a", "b"], ["c d", "c d"], max_length=12, start_distance=5) == 2
    assert count_2019(sparse.tokenizer, ["a " * 99], [context], max_length=12, start_distance=5, max_question=1) == 6


def test_known_count_of_dev_windows(shared):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "minilm-l6-squad-dense")
    dev = squad.read(shared / "squad" / "dev-v1.1.json")
    texts = [q.question for q in dev], [q.context for q in dev]
    assert len(windows(tokenizer, *texts)) == 10784
    assert count_2019(tokenizer, *texts) == 11111
