"""Every kind of pruned BERT: read, exported, packed and run as its own forward pass has it."""

import family
import pytest
import torch
from family import KINDS
from transformers import AutoModelForQuestionAnswering

from qalib import runtimes, sparsity
from qalib.cli import commands
from qalib.model import checkpoint, saving
from qalib.utils.errors import InputError

LENGTHS = (20, 13)


def inputs(made):
    """Two windows of different lengths, token ids, mask and token types; without the types the model has none."""
    generator = torch.Generator().manual_seed(9)
    ids = torch.randint(5, family.VOCABULARY, (2, max(LENGTHS)), generator=generator)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    ids = torch.where(mask == 1, ids, made.config["pad_token_id"])
    types = ((torch.arange(max(LENGTHS)) > 7) & (mask == 1)).long() * (made.config["type_vocab_size"] > 1)
    return ids, mask, types


def difference(made, module):
    """The largest between the model's logits and those of a module, over tokens that are not padding."""
    ids, mask, types = inputs(made)
    with torch.inference_mode():
        output = module(input_ids=ids, attention_mask=mask, token_type_ids=types)
        wanted = made.logits(ids, mask, types)
    found = torch.stack([output.start_logits, output.end_logits])
    assert wanted.abs().max() > 0.5
    return (found - wanted)[:, mask == 1].abs().max().item()


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_densities(kind, tmp_path):
    made = KINDS[kind]()
    loaded = checkpoint.load(made.write(tmp_path / "made"))
    assert difference(made, loaded.model) < 1e-4
    copies = [
        loaded,
        checkpoint.load(saving.save_transformers(loaded, tmp_path / "exported")),
        checkpoint.load(saving.save_packed(loaded, tmp_path / "packed", "fp32")),
    ]
    for copy in copies:
        for name in runtimes.available("cpu"):
            assert difference(made, runtimes.build(name, copy)) < 1e-4, (copy.format, name)
        found = sparsity.summary(copy)
        assert abs(found.linear_density_percent - made.density) < 0.1
        assert abs(found.overall_density_percent - made.overall_density) < 0.1


def test_what_plain_transformers_loads_it_answers_alike(tmp_path):
    for kind in ("hybrid-filled", "roberta", "mpnet", "distilbert", "smaller heads"):
        made = KINDS[kind]()
        loaded = checkpoint.load(made.write(tmp_path / kind / "made"))
        assert not saving.not_for_transformers(loaded)
        folder = saving.save_transformers(loaded, tmp_path / kind / "plain")
        plain, report = AutoModelForQuestionAnswering.from_pretrained(folder, output_loading_info=True)
        assert not any(report.values()) and plain.config.model_type == made.model_type
        ids, mask, types = inputs(made)
        output = plain.eval()(
            input_ids=ids, attention_mask=mask, **({} if made.model_type != "bert" else {"token_type_ids": types})
        )
        found = torch.stack([output.start_logits, output.end_logits])
        assert (found - made.logits(ids, mask, types))[:, mask == 1].abs().max() < 1e-4


@pytest.mark.parametrize("kind, reason", [("no norm", "NoNorm"), ("cofi", "no BERT of width 60 with heads of 16")])
def test_what_plain_transformers_cannot_run_is_said(kind, reason, tmp_path, monkeypatch, capsys):
    folder = KINDS[kind]().write(tmp_path / "made")
    monkeypatch.setattr("sys.argv", ["qalib", "export", "--model", str(folder), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code in (0, None) and reason in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda made: family.shrink_heads(made, (12, 12)),
            "48 query rows in layer 0 are 3 heads of 16 or 4 of 12",
        ),
        (lambda made: family.shrink_heads(made, (10, 8)), "32 query rows in layer 1 are 2 heads of 16 or 4 of 8"),
        (lambda made: unlisted(family.cut_heads(made, {1: [0]})), "48 query rows in layer 1 are 3 heads of 16 or"),
        (
            lambda made: unlisted(family.cut_heads(family.dense("mpnet", hidden=48, heads=3), {0: [1], 1: [0, 2]})),
            "layer 0 has 2 heads of 3, each with its own bias by relative position.*; list those cut out",
        ),
        (lambda made: rows(made, "value", 30), "leaves layer 0 2 heads of 16, which does not fit .*value"),
        (lambda made: rows(made, "query", 30), "layer 0 has 30 query rows, which are neither heads of 16 nor 4 heads"),
        (lambda made: rows(made, "FFN in", 30), "mismatched: bert.encoder.layer.0.intermediate.dense.bias is 30"),
        (lambda made: lost(made, "value"), "missing: bert.encoder.layer.0.attention.self.value.bias"),
    ],
)
def test_shapes_that_do_not_tell_the_whole_story_are_refused(change, message, tmp_path):
    with pytest.raises(InputError, match=message):
        checkpoint.load(change(family.dense()).write(tmp_path / "made"))


def unlisted(made):
    made.pruned_heads = {}
    return made


def rows(made, kind, count):
    """Rows of one matrix of layer 0 cut away; of values while the others have two heads."""
    if kind == "value":
        family.cut_heads(made, {0: [0, 1]})
    weight, bias = made.weights["layers"][0][kind]
    made.weights["layers"][0][kind] = weight[:count], bias[:count]
    return made


def lost(made, kind):
    del made.weights["layers"][0][kind]
    return made


def test_heads_that_were_cut_without_a_list_are_told_by_other_layers(tmp_path):
    """Of 3 heads, 2 left are 32 rows, which are no 3 heads; so the layer with 1 left has one of 16."""
    made = unlisted(family.cut_heads(family.dense(hidden=48, heads=3), {0: [1], 1: [0, 2]}))
    loaded = checkpoint.load(made.write(tmp_path / "made"))
    assert loaded.format == "resized" and {k: len(v) for k, v in loaded.pruned_heads.items()} == {0: 1, 1: 2}
    assert difference(made, loaded.model) < 1e-4
