"""Tokenizers: the fast tokenizer in a checkpoint's folder."""

from pathlib import Path

from transformers import AutoTokenizer

from qalib.utils.errors import InputError, one_line

MIN_TOKENS = 16  # the least model_max_length, in tokens, that a tokenizer may have


def has_tokenizer(folder: Path) -> bool:
    """Does the folder have the files of a fast tokenizer?"""
    ways = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"))  # the last is RoBERTa's
    return any(all((folder / name).exists() for name in names) for names in ways)


def load_tokenizer(folder: Path):
    """The tokenizer of a folder. Raises InputError if there is none, or it is damaged."""
    if not has_tokenizer(folder):
        wanted = "tokenizer.json, vocab.txt, and vocab.json with merges.txt (`qalib twin` takes them from --vocabulary)"
        raise InputError(f"{folder}: no tokenizer there; looked for {wanted}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the library raises many kinds
        raise InputError(f"{folder}: the tokenizer cannot be read: {one_line(error)}") from None
    if not (isinstance(most := tokenizer.model_max_length, int | float) and most >= MIN_TOKENS):
        raise InputError(f"{folder}: the tokenizer's model_max_length is {most!r}, expected at least {MIN_TOKENS}")
    return tokenizer
