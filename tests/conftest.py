"""What the tests share: a tiny block-sparse model, made here, and the large data where they are."""

import os
import runpy
import shutil
import signal
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import family
import pytest
import torch
from builders import squad_file, towns
from tokenizers import ByteLevelBPETokenizer
from transformers import MPNetTokenizer, RobertaTokenizer

from qalib.model import bert, blocks, checkpoint, saving
from qalib.qa import squad
from qalib.runtimes import dtypes, timings
from qalib.runtimes.cpu import widening
from qalib.utils import machine
from qalib.utils.files import read_json, write_json

collect_ignore = ["runtimes/interpreted.py"]  # run by test_triton.py, in a process of its own
ROOT = Path(__file__).resolve().parents[1]
DATA = Path(__file__).parent / "data"
BLOCK = (8, 8)


def pruned(loaded: checkpoint.Checkpoint, density: float = 0.4) -> checkpoint.Checkpoint:
    """Zero random blocks; layer 0 loses head 1, layer 1 the queries of head 0, both 16 neurons."""
    loaded.block = BLOCK
    generator = torch.Generator().manual_seed(1)
    for matrix in bert.matrices(loaded.model):
        weight = matrix.linear.weight.data
        grid = blocks.mask(weight, BLOCK).shape
        weight.mul_(blocks.expand(torch.rand(grid, generator=generator) < density, BLOCK))
    first, second = bert.layers(loaded.model)[:2]
    size = first.attention.self.attention_head_size
    first.attention.self.value.weight.data[size : 2 * size] = 0  # its value bias stays
    second.attention.self.query.weight.data[:size] = 0
    for layer in (first, second):
        layer.intermediate.dense.weight.data[:8] = 0
        layer.output.dense.weight.data[:, 8:16] = 0
    return loaded


def write_2021(loaded: checkpoint.Checkpoint, heads: dict[int, list[int]], folder: Path) -> Path:
    """A checkpoint as of 2021: `heads` zeroed in `loaded` and cut out of the file, an old non-zip pickle with the zero
    blocks stored and a buffer and a pooler beside them."""
    state, size = dict(loaded.model.state_dict()), loaded.model.config.hidden_size // 4
    for layer, removed in heads.items():
        attention, prefix = bert.layers(loaded.model)[layer].attention, f"bert.encoder.layer.{layer}.attention"
        left = torch.tensor([head not in removed for head in range(4)]).repeat_interleave(size)
        for name in ("query", "key", "value"):
            linear = getattr(attention.self, name)
            linear.weight.data[~left], linear.bias.data[~left] = 0, 0
            for part in ("weight", "bias"):
                state[f"{prefix}.self.{name}.{part}"] = getattr(linear, part).data[left]
        attention.output.dense.weight.data[:, ~left] = 0
        state[f"{prefix}.output.dense.weight"] = attention.output.dense.weight.data[:, left]
    state["bert.embeddings.position_ids"] = torch.arange(512)[None]
    state["bert.pooler.dense.weight"], state["bert.pooler.dense.bias"] = torch.zeros(64, 64), torch.zeros(64)
    folder.mkdir()
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    config = read_json(loaded.folder / "config.json") | {"pruned_heads": {str(k): v for k, v in heads.items()}}
    write_json(folder / "config.json", config)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(loaded.folder / name, folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny models: more threads only wait for one another."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def timings_folder(tmp_path_factory) -> Path:
    """The folder of stored timings: not the user's, and one for all tests, as each timing takes a while."""
    folder = tmp_path_factory.mktemp("timings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dtypes, "TABLE", folder / "types.json")
        patch.setattr(widening, "TABLE", folder / "widening.json")
        yield folder


@pytest.fixture(autouse=True, scope="session")
def interruptible():
    """Ctrl-C interrupts, also where a shell that started the tests in the background had it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def types_file(tmp_path_factory, monkeypatch) -> Path:
    """An empty file with timings of types, for one test."""
    monkeypatch.setattr(dtypes, "TABLE", tmp_path_factory.mktemp("types") / "types.json")
    dtypes.measured.cache_clear()
    yield dtypes.TABLE
    dtypes.measured.cache_clear()


@pytest.fixture
def speeds(types_file, monkeypatch):
    """A function that sets which types the machine has instructions for, and the seconds that a timer finds.

    It returns a list of the timer's calls.
    """

    def give(bf16: float | None, fp32: float = 1.0) -> list[int]:
        types_file.unlink(missing_ok=True)
        calls = []
        types = ["fp32"] if bf16 is None else ["fp32", "bf16"]
        monkeypatch.setattr(machine, "hardware_dtypes", lambda device="cpu": types)
        monkeypatch.setattr(dtypes, "is_emulated", lambda dtype, *_: dtype not in types)
        monkeypatch.setattr(timings, "shortest_seconds", lambda *_: calls.append(1) or {"fp32": fp32, "bf16": bf16})
        dtypes.measured.cache_clear()
        return calls

    return give


@pytest.fixture(scope="session")
def dense_folder(tmp_path_factory) -> Path:
    """A tiny random BERT for questions in transformers' form: 2 layers, 4 heads of 16, 128 neurons."""
    folder = tmp_path_factory.mktemp("dense") / "tiny"
    runpy.run_path(str(DATA / "record_pipeline_v4.py"))["tiny_model"](folder)
    return folder


@pytest.fixture(scope="session")
def packed_folder(dense_folder, tmp_path_factory) -> Path:
    """The same, block-sparse and packed in fp32."""
    out = tmp_path_factory.mktemp("packed") / "tiny-sparse"
    return saving.save_packed(pruned(checkpoint.load(dense_folder)), out, "fp32")


@pytest.fixture
def sparse(packed_folder) -> checkpoint.Checkpoint:
    """The tiny block-sparse checkpoint, fresh for each test."""
    return checkpoint.load(packed_folder)


@pytest.fixture
def edited(packed_folder, tmp_path):
    """A function that copies the packed checkpoint with settings of config.json changed."""

    def edit(**settings) -> Path:
        folder = tmp_path / "edited"
        folder.mkdir()
        for path in packed_folder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        write_json(folder / "config.json", read_json(folder / "config.json") | settings)
        return folder

    return edit


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with SQuAD and the dense teacher; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("QALIB_SHARED", ROOT.parent / "shared"))
    if not (folder / "squad").is_dir():
        pytest.skip(f"{folder} holds no squad/; name the folder with the large data in QALIB_SHARED")
    return folder


@pytest.fixture(scope="session")
def asked() -> squad.QuestionSet:
    """Eight questions over short contexts of different lengths."""
    words = "one two red blue cat dog sun sea".split()
    questions = [
        squad.Question(f"q{n}", "t", f"What is {word}?", f"It is {word} " * (n + 1), (word, f"is {word}"), (6, 3))
        for n, word in enumerate(words)
    ]
    return squad.QuestionSet(tuple(questions), "asked", "eight questions", "0" * 64)


@pytest.fixture(scope="session")
def asked_file(asked, tmp_path_factory) -> Path:
    """The same as a SQuAD v1.1 file."""
    return squad_file(tmp_path_factory.mktemp("data") / "eight.json", asked.questions)


@pytest.fixture(scope="session")
def unanswerable_file(asked, tmp_path_factory) -> Path:
    """The same questions and, each in the context of another, four that have no answer, as a SQuAD v2.0 file."""
    questions = list(asked.questions)
    for number in range(4):
        context = questions[number + 4].context
        question = replace(questions[number], id=f"n{number}", context=context, answers=(), starts=())
        questions.append(replace(question, plausible_answers=(context.split()[2],)))
    return squad_file(tmp_path_factory.mktemp("data") / "twelve.json", questions, "v2.0")


@pytest.fixture
def pruning_settings(dense_folder, tmp_path) -> dict[str, Any]:
    """Settings of a short pruning run of the tiny model: 48 windows, 12 steps an epoch."""
    return {
        "teacher": str(dense_folder),
        "data": str(squad_file(tmp_path / "towns.json", towns())),
        "out": tmp_path / "out",
        "teacher_cache": tmp_path / "teachers",
        "block": (4, 4),
        "epochs": 2,
        "batch": 4,
        "weight_lr": 1e-3,
        "precision": "fp32",
        "log_steps": 1,
    }


@pytest.fixture(scope="session")
def roberta(tmp_path_factory, asked) -> Path:
    """A RoBERTa with a byte-level BPE learned from the questions: vocab.json and merges.txt."""
    folder = tmp_path_factory.mktemp("roberta") / "made"
    learned = ByteLevelBPETokenizer()
    texts = [text for q in asked.questions for text in (q.question, q.context)]
    learned.train_from_iterator(texts, 400, 1, False, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    size = learned.get_vocab_size()
    made = family.dense("roberta", types=1, layer_norm_eps=1e-5, vocabulary=size, places=514)
    family.prune_blocks(made, (*family.ATTENTION, *family.FFN), (8, 8)).write(folder, block_size=[8, 8])
    learned.save_model(str(folder))
    RobertaTokenizer.from_pretrained(folder, model_max_length=512).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def mpnet(tmp_path_factory, asked) -> Path:
    """An MPNet with WordPieces of its own: the questions' words, letters and digits."""
    folder = tmp_path_factory.mktemp("mpnet") / "made"
    words = {word for q in asked.questions for word in f"{q.question.rstrip('?')} {q.context}".lower().split()}
    pieces = [piece for sign in string.ascii_lowercase + string.digits for piece in (sign, f"##{sign}")]
    tokens = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>", *".?", *pieces, *sorted(words)]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    made = family.dense("mpnet", layer_norm_eps=1e-5, vocabulary=len(vocabulary), places=514)
    family.prune_blocks(made, (*family.ATTENTION, *family.FFN), (8, 8)).write(folder, block_size=[8, 8])
    MPNetTokenizer(vocab=vocabulary, model_max_length=512).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def distilbert(tmp_path_factory, packed_folder) -> Path:
    """A DistilBERT with the tiny model's tokenizer."""
    folder = tmp_path_factory.mktemp("distilbert") / "made"
    size = checkpoint.load(packed_folder).model.config.vocab_size
    family.dense("distilbert", vocabulary=size, places=512).write(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(packed_folder / name, folder)
    return folder
