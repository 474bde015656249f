"""Claims about what a model is: its density, heads, size, norms and activation, all counted from the checkpoint."""

from qalib import sparsity
from qalib.model.settings import NO_NORM
from qalib.report.claim import DIFFERS, REPRODUCED, CheckResult, Claim, Evidence, Stated, prints_as, register_in

CLAIMS: list[Claim] = []  # in the order of the audit
claim = register_in(CLAIMS)


@claim("model", "text", "the checkpoint that the card describes")
def _model(evidence: Evidence) -> CheckResult:
    text = evidence.stated.get("model") or ""
    name = str(evidence.loaded.meta.get("twin_of", evidence.loaded.name))
    verdict = REPRODUCED if name.split("/")[-1] == text.split("/")[-1] else DIFFERS
    return CheckResult(name, "the model, or the original of the twin, that all our figures come from", verdict)


@claim("linear density", "%", "weights that are not zero / all weights of the encoder matrices at unpruned size")
def _linear_density(evidence: Evidence) -> CheckResult:
    return _density(
        evidence, "linear density", evidence.summary.linear_density_percent, "counted over the unpruned size"
    )


@claim("overall density", "%", "kept / all parameters, pooler counted on both sides",
       label="overall density, with the pooler")  # fmt: skip
def _overall_density_with_pooler(evidence: Evidence) -> CheckResult:
    explanation = "holds only with the pooler, which the question-answering model does not have"
    return _density(evidence, "overall density", evidence.summary.overall_density_with_pooler_percent, explanation)


@claim("overall density", "%", "kept / all parameters of the question-answering model",
       label="overall density, of the model itself")  # fmt: skip
def _overall_density(evidence: Evidence) -> CheckResult:
    explanation = "the model's own parameters give this figure"
    return _density(evidence, "overall density", evidence.summary.overall_density_percent, explanation)


def _density(evidence: Evidence, name: str, ours: float, explanation: str) -> CheckResult:
    text = evidence.stated.get(name) or ""
    if text.endswith(".0") and not prints_as(ours, text):  # nn_pruning rounds before it prints
        same = "which is" if prints_as(ours, text.removesuffix(".0")) else "which is not"
        explanation = f"the card seems to print whole percents with a decimal: {ours:.2f} rounded, {same} what it says"
    return CheckResult(ours, explanation)


@claim("heads removed", "heads", "query, key or value weights of the head all zero")
def _heads_removed(evidence: Evidence) -> CheckResult:
    per_layer = sparsity.heads(evidence.loaded).groupby("layer").called_removed.sum()
    explanation = (
        f"{evidence.summary.heads_removable} of them can go without changing the output; "
        f"removed per layer: {', '.join(map(str, per_layer))}"
    )
    return CheckResult(evidence.summary.heads_called_removed, explanation)


@claim("heads in total", "heads", "attention heads before pruning")
def _heads_in_total(evidence: Evidence) -> CheckResult:
    config = evidence.loaded.model.config
    explanation = f"{config.num_hidden_layers} layers of {config.num_attention_heads}"
    return CheckResult(evidence.summary.heads, explanation)


@claim("share of heads removed", "%", "heads removed / heads before pruning")
def _share_of_heads(evidence: Evidence) -> CheckResult:
    explanation = f"{evidence.summary.heads_called_removed} of {evidence.summary.heads}, by the same rule"
    return CheckResult(evidence.summary.heads_called_removed_percent, explanation)


@claim("file size", "MiB", "fp32 file, heads cut out, zero blocks stored, no pooler", label="file size, in MiB")
def _file_size_in_mib(evidence: Evidence) -> CheckResult:
    explanation = "the card's M is MiB here, truncated to a whole number"
    return _whole(evidence, "file size", evidence.sizes["heads cut out fp32"] / 2**20, explanation)


@claim("file size", "MB", "the same in units of 10^6 bytes", label="file size, in MB")
def _file_size_in_mb(evidence: Evidence) -> CheckResult:
    explanation = "in the unit of the original's size beside it, the file is larger"
    return CheckResult(evidence.sizes["heads cut out fp32"] / 1e6, explanation)


@claim("original file size", "MB", "the dense model in fp32, with the pooler", label="original file size, in MB")
def _original_file_size(evidence: Evidence) -> CheckResult:
    explanation = "MB of 10^6 bytes, and with a pooler that the pruned file does not have"
    return CheckResult(evidence.sizes["dense fp32, pooler"] / 1e6, explanation)


@claim("original file size", "MiB", "the same with pretraining's two heads, in units of 2^20 bytes",
       label="original file size, of pretraining in MiB")  # fmt: skip
def _original_file_size_of_pretraining(evidence: Evidence) -> CheckResult:
    config, hidden = evidence.loaded.model.config, evidence.loaded.model.config.hidden_size
    # dense layer, norm, and a bias per word; the next-sentence head is as large as the answer layer
    heads = hidden * hidden + hidden + 2 * hidden + config.vocab_size
    explanation = "BERT as published has a pooler and two heads that a question-answering model lacks"
    return _whole(
        evidence, "original file size", (evidence.sizes["dense fp32, pooler"] + 4 * heads) / 2**20, explanation
    )


def _whole(evidence: Evidence, name: str, ours: float, explanation: str) -> CheckResult:
    """Cards truncate sizes to whole numbers."""
    text = evidence.stated.get(name)
    return CheckResult(ours, explanation, REPRODUCED if text and int(ours) == float(text) else DIFFERS)


@claim("original parameters", "million", "parameters of the model before pruning")
def _original_parameters(evidence: Evidence) -> CheckResult:
    explanation = "nn_pruning's cards print 152.0M to 218.0M for the very same BERT-base"
    return CheckResult(evidence.summary.parameters / 1e6, explanation)


def _implied_saving(stated: Stated) -> str | None:
    file, original = stated.get("file size"), stated.get("original file size")
    return f"{100 * (1 - float(file) / float(original)):.1f}" if file and original else None


@claim("saving of the file", "%", "1 - file / original", implied=_implied_saving)
def _saving(evidence: Evidence) -> CheckResult:
    file, original = evidence.sizes["heads cut out fp32"], evidence.sizes["dense fp32"]
    explanation = (
        f"like for like, fp32 without pooler in MB: {file / 1e6:.1f} against {original / 1e6:.1f}; "
        "the card does not print the ratio, but its two sizes suggest it"
    )
    return CheckResult(100 * (1 - file / original), explanation)


@claim("layer norm", "text", "the normalisation within a layer")
def _layer_norm(evidence: Evidence) -> CheckResult:
    ours = "NoNorms" if evidence.loaded.model.config.layer_norm_type == NO_NORM else "LayerNorms"
    verdict = REPRODUCED if ours == evidence.stated.get("layer norm") else DIFFERS
    return CheckResult(ours, "as config.json says, and as the weights were loaded", verdict)


@claim("activation", "text", "the activation between the two FFN matrices")
def _activation(evidence: Evidence) -> CheckResult:
    act = evidence.loaded.model.config.hidden_act
    verdict = REPRODUCED if act == "relu" and evidence.stated.get("activation") == "ReLUs" else DIFFERS
    return CheckResult(act, "as config.json says", verdict)
