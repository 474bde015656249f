"""Architectures: what BERT's relatives call BERT's settings in config.json, and its weights in the weight file.

One table per model type. A checkpoint of any type becomes a BertForQuestionAnswering with its own type's embeddings
and encoder, so everything else deals with BERT only: RoBERTa counts positions from its padding token, DistilBERT has no
token types, MPNet has neither and attends by relative position, too. When saved, it gets its own names back.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import BertConfig, BertForQuestionAnswering, DistilBertConfig
from transformers.models.bert.modeling_bert import BertEmbeddings, BertEncoder
from transformers.models.distilbert.modeling_distilbert import Embeddings
from transformers.models.mpnet.modeling_mpnet import MPNetEmbeddings
from transformers.models.roberta.modeling_roberta import RobertaEmbeddings

from qalib.model.relative_positions import BUCKETS, RelativeEncoder

_BERT_SETTINGS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id", "initializer_range",
    "hidden_dropout_prob", "attention_probs_dropout_prob",
)  # fmt: skip
_DISTILBERT_SETTINGS = {
    "vocab_size": "vocab_size", "dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size", "activation": "hidden_act", "max_position_embeddings": "max_position_embeddings",
    "pad_token_id": "pad_token_id", "initializer_range": "initializer_range", "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}  # fmt: skip
_DISTILBERT_LAYER = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
_MPNET_LAYER = {
    "attention.attn.q": "attention.self.query",
    "attention.attn.k": "attention.self.key",
    "attention.attn.v": "attention.self.value",
    "attention.attn.o": "attention.output.dense",
    "attention.LayerNorm": "attention.output.LayerNorm",
}


class NoTokenTypes(Embeddings):
    """DistilBERT's embeddings, called like BERT's; token types are ignored."""

    def __init__(self, config: BertConfig):
        theirs = {key: getattr(config, ours) for key, ours in _DISTILBERT_SETTINGS.items()}
        super().__init__(DistilBertConfig(**theirs))

    def forward(
        self,
        input_ids: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        **of_decoders: int,
    ) -> Tensor:
        """Like BertEmbeddings: token ids, shape `(batch, length)`, to shape `(batch, length, hidden)`.

        What encoders have no use for has another name in every other version of transformers.
        """
        return super().forward(input_ids, inputs_embeds, position_ids)


@dataclass(frozen=True)
class Architecture:
    """A model type: its names, mapped to BERT's, and the embeddings and encoder it has instead of BERT's.

    `name` is how people write it, `class_prefix` how its class names begin. `settings` are the keys of config.json that
    determine what the model computes, `fixed_settings` those that the type fixes, `choices` has the values allowed for
    some. `prefix` is the encoder's, `stack` that of its layers, and `layer` maps the modules within a layer whose names
    differ.
    """

    model_type: str
    name: str
    class_prefix: str
    settings: dict[str, str]
    prefix: str
    stack: str
    layer: dict[str, str] = field(default_factory=dict)
    fixed_settings: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, tuple] = field(default_factory=dict)
    embeddings: Callable[[BertConfig], nn.Module] = BertEmbeddings
    encoder: Callable[[BertConfig], nn.Module] = BertEncoder
    positions_after_padding: bool = False

    def build(self, config: BertConfig) -> BertForQuestionAnswering:
        """A model of this type with new weights."""
        model = BertForQuestionAnswering(config)
        model.bert.set_submodule("embeddings", self.embeddings(config))
        model.bert.set_submodule("encoder", self.encoder(config))
        return model

    def to_bert(self, key: str) -> str:
        """BERT's name for a parameter in the file; for a name that this type doesn't have, one that says so."""
        ours = _renamed(key, self.prefix, self.stack, "bert", "bert.encoder.layer", self.layer)
        return ours if self.from_bert(ours) == key else f"(no name of a {self.model_type}) {key}"

    def from_bert(self, key: str) -> str:
        """The file's name for a parameter of BERT."""
        layer = {ours: theirs for theirs, ours in self.layer.items()}
        return _renamed(key, "bert", "bert.encoder.layer", self.prefix, self.stack, layer)

    def config_key(self, ours: str) -> str:
        """The key of config.json that corresponds to BERT's."""
        return next((theirs for theirs, name in self.settings.items() if name == ours), ours)


def _renamed(key: str, prefix: str, stack: str, new_prefix: str, new_stack: str, layer: dict[str, str]) -> str:
    if found := re.fullmatch(rf"{re.escape(stack)}\.(\d+)\.(.+)", key):
        number, rest = found.groups()
        module = next((name for name in layer if rest.startswith(f"{name}.")), "")
        return f"{new_stack}.{number}.{layer.get(module, '')}{rest[len(module) :]}"
    return new_prefix + key[len(prefix) :] if key.startswith(f"{prefix}.") else key


BERT = Architecture("bert", "BERT", "Bert", {key: key for key in _BERT_SETTINGS}, "bert", "bert.encoder.layer")
ROBERTA = Architecture(
    "roberta",
    "RoBERTa",
    "Roberta",
    {key: key for key in _BERT_SETTINGS},
    "roberta",
    "roberta.encoder.layer",
    embeddings=RobertaEmbeddings,
    positions_after_padding=True,
)
DISTILBERT = Architecture(
    "distilbert",
    "DistilBERT",
    "DistilBert",
    _DISTILBERT_SETTINGS,
    "distilbert",
    "distilbert.transformer.layer",
    _DISTILBERT_LAYER,
    {"type_vocab_size": 1, "layer_norm_eps": 1e-12},
    embeddings=NoTokenTypes,
)
MPNET = Architecture(
    "mpnet",
    "MPNet",
    "MPNet",
    {key: key for key in _BERT_SETTINGS if key != "type_vocab_size"},
    "mpnet",
    "mpnet.encoder.layer",
    _MPNET_LAYER,
    {"type_vocab_size": 1},
    {"relative_attention_num_buckets": (BUCKETS,), "pad_token_id": (1,)},  # transformers' code has both as constants
    MPNetEmbeddings,
    RelativeEncoder,
    positions_after_padding=True,
)
ARCHITECTURES = {architecture.model_type: architecture for architecture in (BERT, ROBERTA, DISTILBERT, MPNET)}
