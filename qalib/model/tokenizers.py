"""Tokenizers: the fast tokenizer in a checkpoint's folder."""

from pathlib import Path

from transformers import CONFIG_MAPPING, AutoTokenizer, PreTrainedConfig

from qalib.utils.errors import InputError, one_line
from qalib.utils.files import read_json, refuse_lfs_pointer

MIN_TOKENS = 16  # the least model_max_length, in tokens, that a tokenizer may have
TOKENIZER_FILES = ("*token*.json", "vocab.*", "merges.txt")
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
    for path in [path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)]:
        refuse_lfs_pointer(path)
    config = _config(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)
    except Exception as error:  # the library raises many kinds
        raise InputError(f"{folder}: the tokenizer cannot be read: {one_line(error)}") from None
    check(tokenizer, str(folder))
    if not (isinstance(most := tokenizer.model_max_length, int | float) and most >= MIN_TOKENS):
        raise InputError(f"{folder}: the tokenizer's model_max_length is {most!r}, expected at least {MIN_TOKENS}")
    return tokenizer


def check(tokenizer, name: str) -> None:
    """Raise InputError if a tokenizer is slow, or lacks a token that every text may need."""
    if not tokenizer.is_fast:
        remedy = "save a fast one, with tokenizer.json"
        raise InputError(
            f"{name}: a fast tokenizer is required, found {type(tokenizer).__name__}, a slow one; {remedy}"
        )
    try:
        tokenizer(PROBE, PROBE)
    except Exception as error:  # the library raises Exception itself
        raise InputError(f"{name}: the tokenizer cannot be used: {one_line(error)}") from None


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
