"""Tokenizers: the fast tokenizer in a checkpoint's folder."""

from itertools import groupby
from pathlib import Path

from transformers import CONFIG_MAPPING, AutoTokenizer, PreTrainedConfig

from qalib.utils.errors import InputError, is_panic, one_line
from qalib.utils.files import read_json, require_file

MIN_TOKENS = 16  # the least model_max_length, in tokens, that a tokenizer may have
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt",
)  # fmt: skip
PROBE = "a \U00013000"  # a hieroglyph, which hardly any vocabulary has


def has_tokenizer(folder: Path) -> bool:
    """Does the folder have the files of a fast tokenizer?"""
    ways = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"))  # the last is RoBERTa's
    return any(all((folder / name).exists() for name in names) for names in ways)


def load_tokenizer(folder: Path):
    """The tokenizer of a folder. Raises InputError if there is none, or it is damaged or slow."""
    if not has_tokenizer(folder):
        wanted = "tokenizer.json, vocab.txt, and vocab.json with merges.txt (`qalib twin` takes them from --vocabulary)"
        raise InputError(f"{folder}: no tokenizer there; looked for {wanted}")
    for name in TOKENIZER_FILES:
        require_file(folder / name)
    config = _config(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)
    except Exception as error:  # the library raises many kinds
        raise InputError(f"{folder}: the tokenizer cannot be read: {one_line(error)}") from None
    check(tokenizer, str(folder))
    most = tokenizer.model_max_length
    if not (isinstance(most, int | float) and most >= MIN_TOKENS and most % 1 == 0):
        wanted = f"a whole number of at least {MIN_TOKENS}"
        raise InputError(f"{folder}: the tokenizer's model_max_length is {most!r}, expected {wanted}")
    return tokenizer


def check(tokenizer, name: str) -> None:
    """Raise InputError if a tokenizer is slow, lacks a token that every text may need, or doesn't encode a pair as
    [CLS] question [SEP] text, the special tokens being its own."""
    if not tokenizer.is_fast:
        remedy = "save a fast one, with tokenizer.json"
        raise InputError(
            f"{name}: a fast tokenizer is required, found {type(tokenizer).__name__}, a slow one; {remedy}"
        )
    try:
        (probe,) = tokenizer(PROBE, PROBE).encodings
    except BaseException as error:  # the library raises Exception itself
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise InputError(f"{name}: the tokenizer cannot be used: {one_line(error)}") from None
    form = [part for part, _ in groupby(probe.sequence_ids)]  # 0 for the question, 1 for the text, None for the others
    if form != [None, 0, None, 1, None]:
        names = ", ".join({None: "special tokens", 0: "question", 1: "text"}[part] for part in form) or "nothing"
        raise InputError(f"{name}: the tokenizer must encode a pair as [CLS] question [SEP] text [SEP], found {names}")


def _config(folder: Path) -> PreTrainedConfig | None:
    """The library's config, from which it chooses a tokenizer's class; None if it knows no such model.

    The library refuses config.json with a byte-order mark. Raises InputError if it refuses anything else of it.
    """
    path = folder / "config.json"
    settings = read_json(path) if path.exists() else None
    if not isinstance(settings, dict) or settings.get("model_type") not in CONFIG_MAPPING:
        return None
    try:
        return CONFIG_MAPPING[settings["model_type"]].from_dict(settings)
    except Exception as error:  # the library raises many kinds
        raise InputError(f"{path}: cannot be read by transformers: {one_line(error)}") from None
