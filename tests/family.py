"""Made-up checkpoints of every kind of pruned BERT, each with a forward pass of its own: no loader, no transformers.

A model is a dictionary of tensors by names of its own (`words`, `places`, `layers` and so on), pruned here, run here by
torch functions, and written to a file by the names that the tool it imitates gives.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from qalib.utils.files import write_json

VOCABULARY, PLACES, PADDING = 60, 40, 1
ATTENTION, FFN = ("query", "key", "value", "attention output"), ("FFN in", "FFN out")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "gelu_python": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "gelu_new": lambda x: x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "gelu_10": lambda x: (x * (1 + torch.erf(x / math.sqrt(2))) / 2).clamp(-10, 10),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": lambda x: x * (x > 0),
    "relu6": lambda x: x.clamp(0, 6),
    "silu": lambda x: x * torch.sigmoid(x),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "linear": lambda x: x,
}


@dataclass
class Made:
    """A checkpoint's weights before it is written; `config` is what its config.json says, by BERT's keys.

    `unpruned` counts the encoder's linear weights before anything was cut, `others` all other parameters,
    of which `narrowed` went with the encoder's width.
    """

    weights: dict[str, Any]
    config: dict[str, Any]
    model_type: str = "bert"
    pruned_heads: dict[int, list[int]] = field(default_factory=dict)
    unpruned: int = 0
    others: int = 0
    narrowed: int = 0

    def logits(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> Tensor:
        """Start and end logits, shape `(2, batch, length)`, of token ids, shape `(batch, length)`."""
        made, config = self.weights, self.config
        norm = _no_norm if config.get("layer_norm_type") == "no_norm" else _layer_norm(config["layer_norm_eps"])
        act = ACTIVATIONS["relu" if config.get("gelu_patch") else config["hidden_act"]]
        size = config["hidden_size"] // config["num_attention_heads"]
        if self.model_type in FROM_PADDING:
            real = (ids != PADDING).long()
            places = real.cumsum(1) * real + PADDING
        else:
            places = torch.arange(ids.shape[1]).expand_as(ids)
        x = made["words"][ids] + made["places"][places]
        if "types" in made:
            x = x + made["types"][torch.zeros_like(ids) if types is None else types]
        x = norm(x, *made["norm"])
        for layer in made["layers"]:
            own = layer.get("head size", size)
            heads = len(layer["query"][0]) // own
            query, key, value = (
                functional.linear(x, *layer[name]).unflatten(-1, (heads, own)).transpose(1, 2)
                for name in ("query", "key", "value")
            )
            scores = query @ key.transpose(-1, -2) / math.sqrt(own)
            if "distances" in made:
                scores = scores + made["distances"][buckets(ids.shape[1])].permute(2, 0, 1)[layer.get("heads", ...)]
            scores = scores.masked_fill(mask[:, None, None] == 0, -1e30)
            context = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
            x = norm(functional.linear(context, *layer["attention output"]) + x, *layer["norm 1"])
            inner = act(functional.linear(x, *layer["FFN in"]))
            x = norm(functional.linear(inner, *layer["FFN out"]) + x, *layer["norm 2"])
        return functional.linear(x, *made["answer"]).permute(2, 0, 1)

    @property
    def density(self) -> float:
        """Linear weights of the encoder that are not zero / all of them before pruning, in percent."""
        left = sum(int((layer[kind][0] != 0).sum()) for layer in self.weights["layers"] for kind in (*ATTENTION, *FFN))
        return 100 * left / self.unpruned

    @property
    def overall_density(self) -> float:
        """The same for all parameters; no others count as pruned but those of an encoder made narrower."""
        left = self.density * self.unpruned / 100 + self.others - self.narrowed
        return 100 * left / (self.unpruned + self.others)

    def write(self, folder: Path, **settings: Any) -> Path:
        """The checkpoint in the names of its architecture, as safetensors."""
        folder.mkdir(parents=True)
        state = {}
        for name, value in self.weights.items():
            if name == "layers":
                for number, layer in enumerate(value):
                    for part, pair in layer.items():
                        if part not in ("head size", "heads"):
                            state |= _pair(f"{STACK[self.model_type]}.{number}.{LAYER[self.model_type][part]}", pair)
            elif name in ("norm", "answer"):
                state |= _pair(TOP[self.model_type][name], value)
            else:
                state[f"{TOP[self.model_type][name]}.weight"] = value
        safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors")
        config = dict(self.config)
        if self.model_type == "mpnet":
            del config["type_vocab_size"]
        if self.model_type == "distilbert":
            config = {DISTILBERT_KEYS[key]: value for key, value in config.items() if key in DISTILBERT_KEYS}
        heads = {"pruned_heads": {str(k): v for k, v in self.pruned_heads.items()}} if self.pruned_heads else {}
        write_json(folder / "config.json", {"model_type": self.model_type} | config | heads | settings)
        return folder


def buckets(length: int) -> Tensor:
    """Rows of MPNet's table for queries and keys, shape `(length, length)`: in integers, where it takes logarithms."""

    def bucket(distance: int) -> int:
        far = abs(distance)
        return 16 * (distance > 0) + (far if far < 8 else min(15, 7 + (far * far // 64).bit_length()))

    return torch.tensor([[bucket(key - query) for key in range(length)] for query in range(length)])


def count(value: Any) -> int:
    """Numbers in nested dictionaries, lists and tuples of tensors."""
    if isinstance(value, Tensor):
        return value.numel()
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(count, parts))


def count_linear(weights: dict[str, Any]) -> int:
    """Weights, without biases, of the encoder's linear layers."""
    return sum(layer[kind][0].numel() for layer in weights["layers"] for kind in (*ATTENTION, *FFN))


def _layer_norm(eps: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps) * weight + bias

    return norm


def _no_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x * weight + bias


def _pair(name: str, pair: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    return {f"{name}.weight": pair[0], f"{name}.bias": pair[1]}


FROM_PADDING = ("roberta", "mpnet")  # positions are counted from the padding token
STACK = {
    "bert": "bert.encoder.layer",
    "roberta": "roberta.encoder.layer",
    "mpnet": "mpnet.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
}
_BERT_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention output": "attention.output.dense",
    "norm 1": "attention.output.LayerNorm",
    "FFN in": "intermediate.dense",
    "FFN out": "output.dense",
    "norm 2": "output.LayerNorm",
}
LAYER = {
    "bert": _BERT_LAYER,
    "roberta": _BERT_LAYER,
    "mpnet": _BERT_LAYER
    | {
        "query": "attention.attn.q",
        "key": "attention.attn.k",
        "value": "attention.attn.v",
        "attention output": "attention.attn.o",
        "norm 1": "attention.LayerNorm",
    },
    "distilbert": {
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "attention output": "attention.out_lin",
        "norm 1": "sa_layer_norm",
        "FFN in": "ffn.lin1",
        "FFN out": "ffn.lin2",
        "norm 2": "output_layer_norm",
    },
}
TOP = {
    kind: {
        "words": f"{kind}.embeddings.word_embeddings",
        "places": f"{kind}.embeddings.position_embeddings",
        "types": f"{kind}.embeddings.token_type_embeddings",
        "norm": f"{kind}.embeddings.LayerNorm",
        "distances": f"{kind}.encoder.relative_attention_bias",
        "answer": "qa_outputs",
    }
    for kind in STACK
}
DISTILBERT_KEYS = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_position_embeddings",
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
    "pad_token_id": "pad_token_id",
    "block_size": "block_size",
}


def dense(
    model_type: str = "bert", layers: int = 2, hidden: int = 64, heads: int = 4, inner: int = 128, types: int = 2,
    vocabulary: int = VOCABULARY, places: int = PLACES, seed: int = 0, **config: Any,
) -> Made:  # fmt: skip
    """A model without a zero; biases and norms have values of their own, as a constant would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 0.2) -> Tensor:
        return scale * torch.randn(shape, generator=generator)

    def linear(rows: int, columns: int) -> tuple[Tensor, Tensor]:
        return normal(rows, columns, scale=1.5 / math.sqrt(columns)), normal(rows)

    def norm() -> tuple[Tensor, Tensor]:
        return 0.6 + normal(hidden), normal(hidden)

    weights = {"words": normal(vocabulary, hidden), "places": normal(places, hidden), "norm": norm()}
    if model_type in ("bert", "roberta"):
        weights["types"] = normal(types, hidden)
    if model_type == "mpnet":
        weights["distances"] = normal(32, heads, scale=2.0)
    weights["layers"] = [
        {name: linear(hidden, hidden) for name in ("query", "key", "value", "attention output")}
        | {"norm 1": norm(), "FFN in": linear(inner, hidden), "FFN out": linear(hidden, inner), "norm 2": norm()}
        for _ in range(layers)
    ]
    weights["answer"] = linear(2, hidden)
    sizes = {
        "vocab_size": vocabulary, "max_position_embeddings": places, "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "intermediate_size": inner, "type_vocab_size": types, "layer_norm_eps": 1e-12,
        "hidden_act": "gelu", "pad_token_id": PADDING if model_type in FROM_PADDING else 0,
    }  # fmt: skip
    linear_weights = count_linear(weights)
    return Made(weights, sizes | config, model_type, {}, linear_weights, count(weights) - linear_weights)


def prune_blocks(made: Made, kinds: tuple[str, ...], block: tuple[int, int], share: float = 0.4, seed: int = 1) -> Made:
    """Zero random blocks of some matrices, `share` of them staying."""
    generator = torch.Generator().manual_seed(seed)
    for layer in made.weights["layers"]:
        for kind in kinds:
            weight = layer[kind][0]
            tiles = weight.unfold(0, block[0], block[0]).unfold(1, block[1], block[1])
            tiles *= (torch.rand(tiles.shape[:2], generator=generator) < share)[:, :, None, None]
    return made


def prune_neurons(made: Made, left: tuple[int, ...], resize: bool, seed: int = 2) -> Made:
    """Leave so many FFN neurons in each layer: others become zero, or go, with biases that are zero, too."""
    generator = torch.Generator().manual_seed(seed)
    for layer, count in zip(made.weights["layers"], left, strict=True):
        (inner, inner_bias), (outer, outer_bias) = layer["FFN in"], layer["FFN out"]
        alive = torch.randperm(len(inner), generator=generator)[:count].sort().values
        if resize:
            layer["FFN in"], layer["FFN out"] = (inner[alive], inner_bias[alive]), (outer[:, alive], outer_bias)
        else:
            gone = torch.ones(len(inner), dtype=torch.bool)
            gone[alive] = False
            inner[gone] = 0
            outer[:, gone] = 0
    return made


def cut_heads(made: Made, gone: dict[int, list[int]]) -> Made:
    """Cut heads out of their layers, and say so in `pruned_heads`."""
    count = made.config["num_attention_heads"]
    size = made.config["hidden_size"] // count
    for number, heads in gone.items():
        layer = made.weights["layers"][number]
        layer["heads"] = [h for h in range(count) if h not in heads]
        rows = torch.tensor([h * size + i for h in layer["heads"] for i in range(size)]).long()
        for kind in ("query", "key", "value"):
            layer[kind] = (layer[kind][0][rows], layer[kind][1][rows])
        weight, bias = layer["attention output"]
        layer["attention output"] = (weight[:, rows], bias)
    made.pruned_heads = gone
    return made


def shrink_heads(made: Made, sizes: tuple[int, ...], first: bool = True) -> Made:
    """Keep the first rows of every head, so many in each layer."""
    count = made.config["num_attention_heads"]
    size = made.config["hidden_size"] // count
    for layer, own in zip(made.weights["layers"], sizes, strict=True):
        rows = torch.tensor([h * size + i for h in range(count) for i in range(own)])
        for kind in ("query", "key", "value"):
            layer[kind] = (layer[kind][0][rows], layer[kind][1][rows])
        layer["attention output"] = (layer["attention output"][0][:, rows], layer["attention output"][1])
        layer["head size"] = own
    return made


def narrow(made: Made, width: int) -> Made:
    """Leave `width` of the hidden dimensions, the same everywhere."""
    weights, before = made.weights, count(made.weights) - count_linear(made.weights)
    for name in ("words", "places", "types"):
        weights[name] = weights[name][:, :width]
    weights["norm"] = tuple(part[:width] for part in weights["norm"])
    weights["answer"] = (weights["answer"][0][:, :width], weights["answer"][1])
    for layer in weights["layers"]:
        for kind in ("query", "key", "value", "FFN in"):
            layer[kind] = (layer[kind][0][:, :width], layer[kind][1])
        for kind in ("attention output", "FFN out"):
            layer[kind] = (layer[kind][0][:width], layer[kind][1][:width])
        for kind in ("norm 1", "norm 2"):
            layer[kind] = tuple(part[:width] for part in layer[kind])
    made.narrowed = before - (count(weights) - count_linear(weights))
    return made


GONE = {0: [1, 3], 1: [0]}


def scattered(made: Made) -> Made:
    """Half the weights at random, and one in every 8 x 8 block in any case."""
    generator = torch.Generator().manual_seed(3)
    for layer in made.weights["layers"]:
        for kind in (*ATTENTION, *FFN):
            weight = layer[kind][0]
            kept = torch.rand(weight.shape, generator=generator) < 0.5
            kept[::8, ::8] = True
            weight *= kept
    return made


KINDS: dict[str, Callable[[], Made]] = {
    "full block": lambda: cut_heads(prune_blocks(dense(block_size=[8, 8]), (*ATTENTION, *FFN), (8, 8)), GONE),
    "hybrid": lambda: cut_heads(
        prune_neurons(prune_blocks(dense(block_size=[8, 8]), ATTENTION, (8, 8)), (50, 37), resize=False), GONE
    ),
    "hybrid-filled": lambda: cut_heads(prune_neurons(dense(), (50, 37), resize=True), GONE),
    "no norm": lambda: cut_heads(
        prune_neurons(dense(layer_norm_type="no_norm", hidden_act="relu"), (50, 37), resize=False), GONE
    ),
    "scattered": lambda: scattered(dense(block_size=[8, 8])),
    "large": lambda: cut_heads(
        prune_blocks(dense(layers=1, hidden=1024, heads=16, inner=4096), (*ATTENTION, *FFN), (32, 32)), {0: [2, 3, 9]}
    ),
    "roberta": lambda: cut_heads(
        prune_blocks(dense("roberta", types=1, layer_norm_eps=1e-5, block_size=[8, 8]), (*ATTENTION, *FFN), (8, 8)),
        GONE,
    ),
    "mpnet": lambda: cut_heads(
        prune_blocks(dense("mpnet", layer_norm_eps=1e-5, block_size=[8, 8]), (*ATTENTION, *FFN), (8, 8)), GONE
    ),
    "mpnet hybrid-filled": lambda: cut_heads(prune_neurons(dense("mpnet"), (50, 37), resize=True), {0: [0, 1, 2, 3]}),
    "distilbert": lambda: prune_neurons(
        prune_blocks(dense("distilbert", block_size=[8, 8]), ATTENTION, (8, 8)), (50, 37), resize=False
    ),
    "cofi": lambda: cut_heads(narrow(prune_neurons(dense(), (50, 37), resize=True), 60), GONE),
    "smaller heads": lambda: shrink_heads(prune_neurons(dense(), (128, 37), resize=True), (10, 7)),
}
