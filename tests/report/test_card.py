import html
import re
from dataclasses import fields

import pytest
from huggingface_hub import ModelCard

from qalib.report import card
from qalib.report.inputs import CardInputsV2
from qalib.utils.errors import InputError
from qalib.utils.paths import TEMPLATES
from qalib.utils.quantity import Number


class Numbers(dict):
    """A number for whatever the template asks for."""

    def __missing__(self, name):
        texts = ("model_", "data", "machine", "version", "teacher", "train_data", "license", "notice", "base", "method")
        value = (
            f"<{name}>" if name.startswith((*texts, "timed", "block", "widget_answer")) and "_f1" not in name else 42.25
        )
        return Number(name, "mit" if name == "license" else value, "%", "d", "test")


class Recorder(Numbers):
    def __missing__(self, name):
        self[name] = super().__missing__(name)
        return self[name]


@pytest.fixture
def numbers():
    found = Recorder()
    card.render(found)
    return dict(found)


def test_every_number_comes_from_the_results(numbers):
    text = card.render(numbers)
    assert "**42.25 %**" in text and "**42.2 %**" in text
    for name in numbers:
        with pytest.raises(InputError, match=f"that is not in results.json: .*{name}"):
            card.render({key: value for key, value in numbers.items() if key != name})


def test_the_schema_has_all_that_templates_show():
    shown = {
        name
        for path in TEMPLATES.rglob("*.j2")
        for name in re.findall(r"\b(?:n|numbers)\.([a-z]\w+)|number\(\"(\w+)\"", path.read_text())
    }
    names = {name for pair in shown for name in pair if name} - {
        "name",
        "unit",
        "definition",
        "note",
        "source",
        "value",
        "values",
    }
    assert len(names) > 80 and names <= {field.name for field in fields(CardInputsV2)}
    assert all(field.metadata["unit"] and field.metadata["definition"] for field in fields(CardInputsV2))


def test_the_metadata_is_what_the_hub_reads(numbers):
    numbers["questions"] = Number("questions", 10_570, "count", "d", "test")
    text = card.render(numbers)
    data = ModelCard(text).data
    assert "| Metric | This model, on all 10,570 questions of SQuAD v1.1 dev | Original (dense teacher on " in text
    assert "not comparable" not in text
    assert data.license == "mit" and data.pipeline_tag == "question-answering" and data.language == "en"
    assert {r.metric_type: r.metric_value for r in data.eval_results} == {"exact_match": 42.25, "f1": 42.25}
    assert data.eval_results[0].dataset_name == "<data_description>" and len(data.widget) == 2


def test_scores_on_other_data_say_so_and_are_not_listed_beside_published_ones(numbers):
    numbers["questions"] = Number("questions", 235, "count", "d", "test")
    numbers["data_description"] = Number("data_description", "a few", "text", "d", "test")
    text = card.render(numbers)
    assert (
        "| Metric | This model, on 235 questions (a few) |\n" in text and "Measured over 235 questions (a few)" in text
    )
    assert "dense teacher's EM of <teacher_exact_match>".replace("<", "&lt;").replace(">", "&gt;") in text
    assert "are on &lt;teacher_data&gt; and not comparable with these." in text and "Original (dense" not in text
    assert ModelCard(text).data.eval_results is None


def test_scores_over_questions_without_an_answer(numbers):
    assert "HasAns" not in card.render(numbers)
    numbers["NoAns_total"] = Number("NoAns_total", 5945, "count", "d", "test")
    numbers["no_answer_training"] = Number("no_answer_training", "none: <x>", "text", "d", "test")
    for name in ("HasAns_total", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1", "best_exact", "best_f1"):
        numbers[name] = Number(name, 61.5, "%", "d", "test")
    for name in ("best_exact_thresh", "best_f1_thresh", "null_score_diff_threshold"):
        numbers[name] = Number(name, -1.25, "1", "d", "test")
    numbers["questions"] = Number("questions", 11_873, "count", "d", "test")
    text = card.render(numbers)
    assert "on all 11,873 questions of SQuAD v2.0 dev |\n" in text and "none (NoAns) | 61.50 % |" in text
    assert "| Best F1 by threshold | 61.50 %, at -1.250 |" in text and "**none: &lt;x&gt;**" in text
    data = ModelCard(text).data
    assert {score.dataset_type for score in data.eval_results} == {"squad_v2"} and data.datasets == ["squad"]
    numbers["train_data_version"] = Number("train_data_version", "2.0", "text", "d", "test")
    assert ModelCard(card.render(numbers)).data.datasets == ["squad_v2"]
    numbers["questions"] = Number("questions", 10_570, "count", "d", "test")
    assert ModelCard(card.render(numbers)).data.eval_results is None


def test_what_was_not_measured_says_so(numbers):
    numbers["gpu_speedup"] = Number("gpu_speedup", None, "x", "d", "test", "no CUDA device was used")
    assert "not measured (no CUDA device was used)" in card.render(numbers)


def test_a_structural_twin_has_no_scores_and_says_so_on_top(numbers):
    for name in ("exact_match", "f1", "widget_answer", "widget_score"):
        numbers[name] = Number(name, None, "%", "d", "test", "needs weights")
    text = card.render(numbers)
    assert "| **F1** | **needs weights** |" in text and "Measured over" not in text
    assert "Its answer in this run: needs weights." in text
    assert ModelCard(text).data.eval_results is None
    first = text.split("\n---\n")[1].strip().splitlines()[2]
    assert first.startswith("> **Made from a structural twin of ")
    for name in ("twin_of", "twin_structure"):
        numbers[name] = Number(name, None, "text", "d", "test", "not stated")
    assert "twin" not in card.render(numbers)


def test_text_from_outside_is_no_markup(numbers):
    numbers["data_description"] = Number("data_description", "<script>|x", "text", "d", "test")
    body = card.render(numbers).split("\n---\n", 1)[1]
    assert "<script>" not in body and "&lt;script&gt;&#124;x" in body


def test_missing_figures_are_an_error(numbers, tmp_path, monkeypatch):
    monkeypatch.setattr(card.results, "read", lambda out: numbers)
    with pytest.raises(InputError, match="heads.svg: no such figure"):
        card.write(tmp_path)


@pytest.mark.parametrize(
    "value, unit, decimals, text",
    [(12345, "count", None, "12,345"), (31.6567, "%", 1, "31.7 %"), (1.5, "x", 2, "1.50x"), (3, "s", None, "3 s")],
)
def test_show(value, unit, decimals, text):
    assert card.show(Number("n", value, unit, "d", "s"), decimals) == text


def test_size_is_in_decimal_megabytes():
    assert card.size(Number("n", 372_596_744, "bytes", "d", "s")) == "372.6 MB"


def test_a_model_that_was_not_pruned_in_blocks_is_not_said_to_be(numbers):
    numbers["granularity"] = Number("granularity", "query: blocks of 32x32; FFN in: whole rows", "text", "d", "test")
    numbers["block"] = Number("block", "32x32", "text", "d", "test")
    numbers["block_misfits"] = Number("block_misfits", "FFN in", "text", "d", "test")
    card_of = card.render(numbers)
    assert card_of.count("32x32") == 2 == card_of.count("query: blocks of 32x32; FFN in: whole rows")
    assert "block-sparse" not in ModelCard(card_of).data.tags and "kept blocks" not in card_of
    numbers["block_misfits"] = Number("block_misfits", None, "text", "d", "test", "all were pruned in such blocks")
    for name in ("kept_blocks", "blocks"):
        numbers[name] = Number(name, 7, "count", "d", "test")
    assert "7 of 7 blocks of 32x32 are kept." in (text := card.render(numbers))
    assert "block-sparse" in ModelCard(text).data.tags


def test_markdown_in_what_a_model_says_is_text():
    hostile = "[x](javascript:alert(1)) ![y](z) `code` <b> | *a*\nb"
    shown = card._plain(hostile)
    assert not set("[]`*<>|\n") & set(shown)
    assert html.unescape(shown) == hostile.replace("\n", " ")
