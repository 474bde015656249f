"""RoBERTa, DistilBERT and MPNet with a tokenizer of their own: windows, answers, pipeline, as transformers has them."""

import shutil

import family
import pytest
import torch
from transformers import AutoModelForQuestionAnswering, BertConfig

from qalib import pipeline, runtimes
from qalib.model import bert, checkpoint, description
from qalib.model.architectures import NoTokenTypes
from qalib.qa import answering, evaluation, squad
from qalib.qa.batching import BatchingConfig
from qalib.qa.windows import windows
from qalib.utils.errors import InputError


@pytest.mark.parametrize("name", ["roberta", "mpnet"])
def test_a_window_has_two_separators_and_no_token_types(name, request):
    tokenizer = checkpoint.load(request.getfixturevalue(name)).tokenizer
    (window,) = windows(tokenizer, ["What is red?"], ["It is red."])
    tokens = tokenizer.convert_ids_to_tokens(window.ids.tolist())
    middle = tokens.index("</s>")
    assert tokens[0] == "<s>" and tokens[middle : middle + 2] == ["</s>"] * 2 and tokens[-1] == "</s>"
    assert window.first == middle + 2 and not window.types.any()
    assert ["It is red."[a:b] for a, b in window.offsets][:2] == ["It", "is"]
    with pytest.raises(ValueError, match="an overlap of 128 and 4 special tokens"):
        windows(tokenizer, ["What?"], ["It is red."], 64 + 128 + 4)


@pytest.mark.parametrize("name", ["roberta", "distilbert", "mpnet"])
def test_answers_are_those_of_transformers(name, request, asked):
    folder = request.getfixturevalue(name)
    loaded = checkpoint.load(folder)
    plain = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    ignores_types = name != "roberta"

    class Plain(torch.nn.Module):
        def forward(self, token_type_ids, **inputs):
            return plain(**inputs) if ignores_types else plain(token_type_ids=token_type_ids, **inputs)

    wanted = answering.answer(Plain(), loaded.tokenizer, asked.questions, progress=False).texts
    for runtime in runtimes.available("cpu"):
        for batching in (BatchingConfig(), BatchingConfig(batch_size=3, sort_by_length=False, pad_to=384)):
            module = runtimes.build(runtime, loaded)
            found = answering.answer(module, loaded.tokenizer, asked.questions, batching, progress=False)
            assert found.texts == wanted
    assert any(wanted.values())


@pytest.mark.parametrize("name", ["roberta", "mpnet"])
def test_the_pipeline_and_the_command_answer(name, request, asked, asked_file):
    folder = str(request.getfixturevalue(name))
    ask = pipeline("question-answering", model=folder)
    question = asked.questions[3]
    found = ask(question=question.question, context=question.context)
    assert found["answer"] == question.context[found["start"] : found["end"]] != ""
    about, result = evaluation.load_and_evaluate(folder, str(asked_file), device="cpu", dtype="fp32")
    assert about["model"] == "made" and result.score.total == len(squad.read(asked_file))


def test_positions_that_padding_takes_do_not_count(roberta):
    loaded = checkpoint.load(roberta)
    assert loaded.model.config.max_position_embeddings == 514 and bert.max_tokens(loaded.model) == 512
    with torch.inference_mode():
        assert loaded.model(torch.full((1, 512), 5)).start_logits.isfinite().all()
        with pytest.raises((IndexError, RuntimeError)):
            loaded.model(torch.full((1, 513), 5))
    ask = pipeline("question-answering", model=loaded, max_seq_len=600)
    with pytest.raises(ValueError, match="do not fit a model with 512 positions"):
        ask(question="What?", context="It is red. " * 300)


def test_a_model_with_too_few_positions_is_not_evaluated(packed_folder, tmp_path, asked_file):
    made = family.dense(vocabulary=checkpoint.load(packed_folder).model.config.vocab_size, places=100)
    with pytest.raises(InputError, match="windows of 384 tokens do not fit a model with 100 positions"):
        evaluation.load_and_evaluate(str(made.write(tmp_path / "made")), str(asked_file), device="cpu")


def test_a_tokenizer_with_more_token_types_than_the_model(packed_folder, tmp_path):
    made = family.dense(vocabulary=checkpoint.load(packed_folder).model.config.vocab_size, types=1)
    folder = made.write(tmp_path / "made")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(packed_folder / name, folder)
    with pytest.raises(InputError, match="the tokenizer gives token types to 1, the model knows 1"):
        checkpoint.load(folder).tokenizer  # noqa: B018


@pytest.mark.parametrize("name, title", [("roberta", "RoBERTa"), ("distilbert", "DistilBERT"), ("mpnet", "MPNet")])
def test_a_card_says_what_it_is(name, title, request):
    found = description.describe(checkpoint.load(request.getfixturevalue(name)))
    assert found.architecture == title and found.letter_case == ("cased" if name == "roberta" else "uncased")


@pytest.mark.parametrize("name", ["past_key_values_length", "cache_length"])
def test_embeddings_of_distilbert_take_what_bert_passes_in_any_version(name):
    embeddings = NoTokenTypes(BertConfig(vocab_size=9, hidden_size=8, num_attention_heads=2)).eval()
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(embeddings(ids, **{name: 0}), embeddings(ids))
