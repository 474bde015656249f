"""Encoders without an answer layer: loaded with a new one, and fine-tuned."""

import json
import shutil

import pytest
import torch
from builders import squad_file, towns
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertModel, MPNetConfig, MPNetForMaskedLM, MPNetModel
from typer.testing import CliRunner

from qalib import runtimes
from qalib.cli import app
from qalib.model import checkpoint, encoders, saving
from qalib.pruning import run
from qalib.pruning.config import PruningConfig
from qalib.pruning.dataset import SquadDataset
from qalib.pruning.finetuning import FinetuningConfig, finetune
from qalib.utils.errors import InputError

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
KINDS = {
    "mpnet": (MPNetModel, MPNetConfig, "mpnet", {"max_position_embeddings": 514}, "pooler.dense.bias"),
    "mpnet lm": (MPNetForMaskedLM, MPNetConfig, "mpnet", {"max_position_embeddings": 514}, "lm_head.bias"),
    "bert": (BertModel, BertConfig, "packed_folder", {}, "pooler.dense.bias"),
    "bert lm": (BertForMaskedLM, BertConfig, "packed_folder", {}, "cls.predictions.bias"),
}


def encoder_folder(kind, request, folder):
    """An encoder as transformers writes it, with the tokenizer of a fixture; and the encoder."""
    model_class, config_class, tokenizer, settings, _ = KINDS[kind]
    source = request.getfixturevalue(tokenizer)
    vocabulary = checkpoint.load(source).model.config.vocab_size
    torch.manual_seed(1)
    model = model_class(config_class(vocab_size=vocabulary, **SIZES, **settings)).eval()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder)
    return folder, model


@pytest.fixture
def base(request, tmp_path):
    return encoder_folder("mpnet", request, tmp_path / "base")[0]


@pytest.fixture
def settings(base, tmp_path):
    data = str(squad_file(tmp_path / "towns.json", towns()))
    out = tmp_path / "out"
    return {
        "base": str(base),
        "data": data,
        "out": out,
        "batch": 4,
        "weight_lr": 1e-3,
        "precision": "fp32",
        "log_steps": 1,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_has_its_weights_and_a_new_answer_layer(kind, request, tmp_path):
    folder, plain = encoder_folder(kind, request, tmp_path / "base")
    loaded, remark = encoders.load(folder, seed=3)
    assert remark.startswith("a new answer layer (seed 3); without ") and KINDS[kind][-1] in remark
    ids = torch.arange(40).view(2, 20) % 30 + 5
    with torch.inference_mode():
        hidden = plain.base_model(input_ids=ids).last_hidden_state
        assert (loaded.model.bert(input_ids=ids).last_hidden_state - hidden).abs().max() < 1e-5
    weight = loaded.model.qa_outputs.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.2) and not loaded.model.qa_outputs.bias.any()
    assert torch.equal(weight, encoders.load(folder, seed=3)[0].model.qa_outputs.weight)
    assert not torch.equal(weight, encoders.load(folder, seed=4)[0].model.qa_outputs.weight)
    with pytest.raises(InputError, match="missing: .*(qa_outputs|embeddings)"):
        checkpoint.load(folder)


def test_an_answer_layer_is_kept(mpnet):
    loaded, remark = encoders.load(mpnet)
    assert remark == "its own answer layer"
    assert torch.equal(loaded.model.qa_outputs.weight, checkpoint.load(mpnet).model.qa_outputs.weight)


@pytest.mark.parametrize(
    "change, message", [("missing", "missing: mpnet.encoder.layer.0"), ("more", "unexpected: .*odd")]
)
def test_all_else_is_as_strict_as_ever(change, message, base):
    state = load_file(base / "model.safetensors")
    if change == "missing":
        del state["encoder.layer.0.attention.attn.q.weight"]
    else:
        state["odd"] = torch.zeros(1)
    save_file(state, base / "model.safetensors")
    with pytest.raises(InputError, match=message):
        encoders.load(base)


def test_it_learns_and_can_be_pruned(settings, base, tmp_path, capfd):
    out = finetune(FinetuningConfig(**settings | {"epochs": 8, "eval_data": settings["data"], "eval_questions": 4}))
    said = capfd.readouterr().err
    assert "base: a new answer layer (seed 0); without pooler.dense.bias, pooler.dense.weight" in said
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert sum(losses[-8:]) < 0.6 * sum(losses[:8]) and all(line["density"] == 1 for line in lines if "loss" in line)
    rates = [line["weight_lr"] for line in lines if "loss" in line]
    assert rates[0] < max(rates) == 1e-3 > rates[-1] and rates.count(1e-3) > len(rates) // 3
    loaded, (start, _) = checkpoint.load(out), encoders.load(base)
    assert loaded.meta["method"] == "dense" and loaded.meta["density"] == 1 and "teacher" not in loaded.meta
    assert loaded.meta["scores"].keys() == {"data", "model"} and loaded.meta["student"]["sha256"] == start.sha256
    for name in ("embeddings.word_embeddings", "encoder.relative_attention_bias"):
        weights = [model.bert.get_submodule(name).weight for model in (loaded.model, start.model)]
        assert torch.equal(weights[0], weights[1].half().float())
    more = {"teacher": str(out), "data": settings["data"], "out": tmp_path / "pruned", "block": (8, 8), "epochs": 1}
    pruned = run.prune(PruningConfig(**more, density=0.3, batch=8, precision="fp32"), progress=False)
    assert checkpoint.load(pruned).meta["density"] == pytest.approx(0.3, abs=0.005)


def test_a_run_that_is_resumed_ends_where_it_would_have(settings, tmp_path):
    whole = finetune(FinetuningConfig(**settings | {"epochs": 2, "dropout": 0.0}), progress=False)
    first = FinetuningConfig(
        **settings | {"epochs": 2, "dropout": 0.0, "out": tmp_path / "again", "save_minutes": 1e-9}
    )

    class Killed(Exception):
        pass

    def kill(self, args, state, control, **named):
        if state.global_step == 9:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qalib.pruning.callback.PruningCallback.on_step_begin", kill)
        with pytest.raises(Killed):
            finetune(first, progress=False)
    again = finetune(FinetuningConfig(**vars(first) | {"resume": True}), progress=False)
    states = [checkpoint.load(folder).model.state_dict() for folder in (whole, again)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_long_windows_are_left_out(settings):
    lengths = SquadDataset(towns(), encoders.load(settings["base"])[0].tokenizer).lengths
    most = int(sorted(lengths)[20])
    out = finetune(FinetuningConfig(**settings | {"epochs": 0.5, "max_length": most}), progress=False)
    assert checkpoint.load(out).meta["data"]["windows"] == (lengths <= most).sum() < len(lengths)
    with pytest.raises(InputError, match="max_length 3: must be at least .*, the shortest window's tokens"):
        finetune(
            FinetuningConfig(**settings | {"max_length": 3, "out": settings["out"].with_name("none")}), progress=False
        )


def test_the_command(settings, base):
    options = ["--base", str(base), "--data", settings["data"], "--out", str(settings["out"]), "--epochs", "0.25"]
    ran = CliRunner().invoke(app, ["finetune", *options, "--lr", "1e-3", "--precision", "fp32"], catch_exceptions=False)
    assert ran.exit_code == 0 and str(settings["out"]) in ran.stdout
    plain = saving.save_transformers(checkpoint.load(settings["out"]), settings["out"].with_name("plain"))
    inputs = {"input_ids": torch.arange(40).view(2, 20) % 30 + 5}
    with torch.inference_mode():
        modules = [runtimes.build(name, checkpoint.load(plain)) for name in runtimes.available("cpu")]
        logits = [module(**inputs).start_logits for module in modules]
    assert len(logits) > 1 and all((each - logits[0]).abs().max() < 1e-4 for each in logits)


@pytest.mark.parametrize(
    "change, message", [({"decay_from": 1.5}, "must ascend"), ({"beta2": 1.0}, "beta2 1.0: must be")]
)
def test_impossible_settings(change, message, settings):
    with pytest.raises(InputError, match=message):
        finetune(FinetuningConfig(**settings | change))
    with pytest.raises(InputError, match="must be 0 without a teacher"):
        PruningConfig(teacher=None, data="", out="")
