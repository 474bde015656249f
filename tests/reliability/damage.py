"""Valid files made wrong: values at random places, bytes, and by hand what people get wrong.

Each function writes one file and returns what was done to it, and what must come of it: 2 (refused), 0 (accepted), or
None where either is right.
"""

import copy
import io
import json
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from reliability import trial

VALUES = [
    *(None, True, 0, -1, 1, 10**9, 10**30, 0.5, float("nan"), float("inf"), [], [1], [[]], [0] * 50, {}, {"a": 1}),
    *("", " ", "x", "\u0000", "\ud83d", "é😀", "<script>", "a\nb", "x" * 5000),
]
RANGES = (
    "20-7E A1-24F 300-36F 600-6FF 900-97F 2000-206F 3040-30FF 4E00-9FFF E000-F8FF FE00-FE0F FFF0-FFFF 1F300-1FAFF "
    "20000-2A6DF 30000-3134A"
)
PLANES = [
    *(tuple(int(end, 16) for end in span.split("-")) for span in RANGES.split()),
    *((plane << 16, (plane << 16) + 0xFFFF) for plane in range(1, 17)),
]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [pair for key, child in inner for pair in ((value, key), *places(child))]


def json_file(path: Path, value: Any, rng: random.Random, number: int) -> tuple[str, int | None]:
    """Write a JSON value damaged: the first few by bytes, most others at random places of the value."""
    text = json.dumps(value, ensure_ascii=False)
    by_hand: list[tuple[str, bytes, int | None]] = [
        ("not UTF-8", text.encode("utf-16"), 2),
        ("byte-order mark", b"\xef\xbb\xbf" + text.encode(), 0),
        ("CRLF", json.dumps(value, indent=1).replace("\n", "\r\n").encode(), 0),
        ("empty file", b"", 2),
        ("nested 100,000 deep", b"[" * 100_000, 2),
        ("number of 5,000 digits", b'{"a": ' + b"1" * 5000 + b"}", 2),
        ("a key twice", b'{"version": 1, ' + text.encode()[1:-1] + b', "version": 2}', 2),
        ("half a character", b'{"a": "\\ud83d"}', 2),
    ]
    if number < len(by_hand):
        what, content, expected = by_hand[number]
        path.write_bytes(content)
        return what, expected
    if rng.random() < 0.25:
        content = bytearray(text.encode())
        if rng.random() < 0.5:
            path.write_bytes(content[: rng.randrange(len(content))])
            return "truncated", 2
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        return "a bit flipped", None
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 3))):
        if found := places(value):
            container, key = rng.choice(found)
            if rng.random() < 0.3:
                del container[key]
            else:
                container[key] = copy.deepcopy(rng.choice(VALUES))
    path.write_text(json.dumps(value))
    return "values at random places", None


def squad(path: Path, rng: random.Random, number: int) -> tuple[str, int | None]:
    """A question set: what people get wrong first, then at random."""

    def by(change: Callable[[dict, dict], Any]) -> dict:
        value = trial.questions()
        paragraph = value["data"][0]["paragraphs"][3]
        change(paragraph, paragraph["qas"][0])
        return value

    by_hand = {
        "an answer that is not in its context": by(lambda p, q: q["answers"][0].update(text="green")),
        "an offset off by one": by(lambda p, q: q["answers"][0].update(answer_start=7)),
        "a negative offset": by(lambda p, q: q["answers"][0].update(answer_start=-5)),
        "an offset behind the end": by(lambda p, q: q["answers"][0].update(answer_start=10**9)),
        "an empty answer": by(lambda p, q: q["answers"][0].update(text="")),
        "no answers": by(lambda p, q: q.update(answers=[])),
        "an empty context": by(lambda p, q: p.update(context="")),
        "an empty question": by(lambda p, q: q.update(question="  ")),
        "an id twice": by(lambda p, q: q.update(id="q0")),
        "is_impossible of SQuAD 2.0": by(lambda p, q: q.update(is_impossible=True, answers=[])),
        "no questions": {"data": []},
        **{f"no {key!r}": by(lambda p, q, key=key: q.pop(key)) for key in ("id", "question", "answers")},
    }
    if number < len(by_hand):
        what, value = list(by_hand.items())[number]
        path.write_text(json.dumps(value))
        return what, 2
    return json_file(path, trial.questions(), rng, number - len(by_hand))


def odd_texts(path: Path, rng: random.Random, length: int) -> None:
    """A valid question set of odd texts, with CRLF in some of them."""

    def text(size: int) -> str:
        drawn = "".join(chr(rng.randint(*rng.choice(PLANES))) for _ in range(size)) + rng.choice(
            ("", "\r\n", " e\u0301")
        )
        return drawn if drawn.strip() else drawn + "x"

    paragraphs = []
    for number in range(3):
        context = text(length if number == 0 else rng.randint(1, 100))
        at = next(n for n, c in enumerate(context) if c.strip())
        answer = {"text": context[at : at + rng.randint(1, 9)], "answer_start": at}
        entry = {"id": text(3) + str(number), "question": text(rng.randint(1, 90)), "answers": [answer]}
        paragraphs.append({"context": context, "qas": [entry]})
    path.write_text(json.dumps({"data": [{"title": text(3), "paragraphs": paragraphs}]}), encoding="utf-8")


def config(path: Path, settings: dict, rng: random.Random, number: int) -> tuple[str, int | None]:
    """Settings: heads, sizes, blocks and architectures that cannot be, then at random."""
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    by_hand = [
        *(
            ("another architecture", {"model_type": name})
            for name in ("roberta", "distilbert", "mpnet", "gpt2", "BERT", None)
        ),
        *(("another kind of BERT", {name: True}) for name in ("is_decoder", "add_cross_attention")),
        *(
            ("heads out of range", {"pruned_heads": heads})
            for heads in ({"0": [4]}, {"2": [0]}, {"0": [-1]}, {"x": [0]}, [1])
        ),
        *(
            ("blocks that do not divide", {"block_size": b})
            for b in ([7, 8], [8, 48], [0, 8], [8], 8, "8x8", [10**9, 8])
        ),
        *(
            ("a size that cannot be", {name: size})
            for name in sizes
            for size in (0, -1, 10**6 + 1, 10**12, 10**30, "8", None, 64.0)
        ),
    ]
    if number < len(by_hand):
        what, changes = by_hand[number]
        path.write_text(json.dumps(settings | changes))
        return what, 2
    if number % 10 == 0:  # settings by which the library would fetch code from the model hub, and run it
        hostile = {
            "_attn_implementation": "org/kernel",
            "attn_implementation": "org/kernel",
            "auto_map": {"AutoModel": "a.B"},
        }
        path.write_text(json.dumps(settings | hostile))
        return "code on the hub", 0
    return json_file(path, settings, rng, number - len(by_hand))


class Runs:
    """Unpickled, it would make a folder."""

    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __reduce__(self):
        import os

        return os.mkdir, (self.folder,)


def weights(path: Path, origin: Path, rng: random.Random, number: int, mark: Path) -> tuple[str, int | None]:
    """A weight file; code in a pickle would make `mark`, which counts as something written."""
    content, pickled = bytearray(origin.read_bytes()), path.suffix == ".bin"
    way = rng.choice(
        (
            "truncated",
            "a bit flipped",
            "a bit of the first 1,000 bytes flipped",
            "NaN",
            "another type",
            "a tensor gone",
            "another shape",
            "code in a pickle" if pickled else "a lying header",
        )
    )
    if way == "truncated":
        path.write_bytes(content[: rng.randrange(len(content) - 1)])
        return way, 2
    if "flipped" in way:
        content[rng.randrange(1000 if "first" in way else len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        return way, None
    if way == "code in a pickle":
        made = rng.choice((lambda v: pickle.dumps(v, 2), _zipped, lambda v: _zipped(v, new=False)))
        path.write_bytes(made({"w": Runs(mark), "v": torch.zeros(2)}))
        return way, 2
    if way == "a lying header":
        size = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + size])
        name = rng.choice([key for key in header if key != "__metadata__"])
        lie = rng.choice(
            (
                {"shape": [10**6, 10**6]},
                {"data_offsets": [0, 10**12]},
                {"shape": [-1]},
                {"dtype": "F99"},
                {"shape": []},
                {"data_offsets": [8, 0]},
                {"shape": [2**63, 2]},
            )
        )
        header[name] |= lie
        text = json.dumps(header).encode()
        length = rng.choice((len(text), len(text), 10**15, len(text) - 1))
        path.write_bytes(struct.pack("<Q", length) + text + content[8 + size :])
        return way, 2
    state = dict(torch.load(origin, weights_only=True) if pickled else safetensors.torch.load_file(origin))
    name = rng.choice(
        [key for key, value in state.items() if value.numel() and key not in trial.checkpoint.formats.UNUSED_KEYS]
    )
    return way, _tensors(path, state, name, way, rng)


def _tensors(path: Path, state: dict, name: str, way: str, rng: random.Random) -> int | None:
    value, expected = state[name].clone(), 2
    if way == "NaN":
        if not value.is_floating_point():
            value = value.new_zeros(1)
        else:
            value.view(-1)[rng.randrange(value.numel())] = rng.choice((float("nan"), float("inf"), -float("inf")))
    elif way == "another type":
        kind = rng.choice(
            (
                torch.float16,
                torch.bfloat16,
                torch.float64,
                torch.int8,
                torch.bool,
                torch.int64,
                torch.complex64,
                torch.float8_e4m3fn,
                torch.uint8,
            )
        )
        right = kind == value.dtype or (value.is_floating_point() and kind in trial.checkpoint.formats.FLOATS)
        value, expected = value.to(kind), 0 if right else 2
    elif way == "another shape":
        value = rng.choice((value.new_zeros(*value.shape, 1), value.new_zeros(value.numel() + 8), value.new_zeros(())))
    if way == "a tensor gone":
        del state[name]
    else:
        state[name] = value.contiguous()
    if path.suffix == ".bin":
        path.write_bytes(_zipped(state))
    else:
        header = {"format": "qalib-packed" if "packed" in path.name else "pt"}
        safetensors.torch.save_file(state, path, metadata=header)
    return expected


def _zipped(value: Any, new: bool = True) -> bytes:
    torch.save(value, buffer := io.BytesIO(), _use_new_zipfile_serialization=new)
    return buffer.getvalue()


CARD = """The **linear** layers contains **36.0%** of the original weights.
The model contains **50.0%** of the original weights **overall**. 2 heads were removed on a total of 8.
it ran **2.32x** faster. | train | 90.6K | | eval | 11.1k | file size**: `305MB` original BERT: `420M`
| **EM** | **78.77** | **80.8** | | **F1** | **86.69** | **88.5** |
from transformers import pipeline; pipeline("question-answering", GPUs: 1
"""


def card(path: Path, rng: random.Random, number: int) -> tuple[str, int | None]:
    """A published card: figures that are none, then bytes at random."""
    figures = ("36.0", "50.0", "2.32", "90.6K", "11.1k", "305", "420", "78.77", "80.8", "86.69", "88.5")
    wrong = ("1.2.3", "...", ".", "0", "9" * 400)
    if number < len(figures) * len(wrong):
        path.write_text(CARD.replace(figures[number // len(wrong)], wrong[number % len(wrong)], 1))
        return "a figure that is none", 2
    if number % 5 == 0:
        path.write_bytes(rng.randbytes(rng.randrange(500)))
        return "random bytes", 2
    if number % 5 == 1:
        path.write_text("from transformers import pipeline " * 20_000)
        return "no claim, long", 2
    content = bytearray(CARD.encode())
    for _ in range(rng.randint(1, 30)):
        content[rng.randrange(len(content))] = rng.choice(b"0123456789.*`| \nkKM")
    path.write_bytes(content)
    return "characters at random places", None
