"""Locating a checkpoint: the bundled one, a folder, or a repository on the model hub."""

from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RevisionNotFoundError,
)

from qalib.model.formats import PACKED, PICKLED, SAFETENSORS
from qalib.model.tokenizers import TOKENIZER_FILES
from qalib.model.weight_files import INDEX
from qalib.utils.errors import NO_HOME, InputError, is_homeless, one_line
from qalib.utils.paths import BUNDLED

COMPANION_FILES = (
    "config.json", "model_meta.json", *TOKENIZER_FILES, "LICENSE", "NOTICE", "log.jsonl",
)  # fmt: skip

# Weight files, and shards with their index, as transformers names them.
WEIGHTS = (PACKED, SAFETENSORS, SAFETENSORS + INDEX, "model-*-of-*.safetensors")
PICKLED_WEIGHTS = (PICKLED, PICKLED + INDEX, "pytorch_model-*-of-*.bin")


def locate(source: str) -> tuple[str, Path, str | None]:
    """The name of a checkpoint, the folder that holds it, and its commit on the hub (None for a folder).

    `source` is `bundled`, a folder, or a hub id with an optional `@revision`, downloaded unless the hub's cache
    has it. Raises InputError saying what was tried and what to do.
    """
    if source == "bundled":
        if not BUNDLED.is_dir():
            raise InputError(f"{BUNDLED}: the bundled model is missing; reinstall qalib")
        return BUNDLED.name, BUNDLED, None
    path = Path(source)
    if path.is_dir():
        return path.resolve().name, path, None
    if path.exists():
        raise InputError(f"{source}: is a file; name the folder that holds config.json and the weights")
    identifier, _, revision = source.partition("@")
    if identifier.count("/") > 1 or source.startswith((".", "/", "~")):
        raise InputError(f"{source}: no such folder")
    return identifier, *_download(identifier, revision or None)


def _download(identifier: str, revision: str | None) -> tuple[Path, str]:
    def fetch(revision: str | None, *patterns: str) -> Path:
        return Path(huggingface_hub.snapshot_download(identifier, revision=revision, allow_patterns=list(patterns)))

    try:
        folder = fetch(revision, *COMPANION_FILES, *WEIGHTS)
        if not any((folder / name).exists() for name in WEIGHTS):
            folder = fetch(folder.name, *PICKLED_WEIGHTS)  # of the same commit, in case the branch moves meanwhile
    except Exception as error:  # the library and its HTTP client raise many kinds
        asked = f"{identifier}@{revision}" if revision else identifier
        raise InputError(f"{asked}: no such folder, and {_reason(error)}") from None
    return folder, folder.name


def _reason(error: Exception) -> str:
    """Why the hub didn't deliver, and what to do about it, in one line."""
    hub, login = constants.ENDPOINT, "log in with `hf auth login`"
    match error:
        case LocalEntryNotFoundError():
            tried = (
                "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{hub}: {one_line(error.__cause__ or error)}"
            )
            return (
                f"the hub cannot be reached ({tried}), and its cache, {constants.HF_HUB_CACHE}, does not have all of "
                "it; download it where there is a network, or name a folder"
            )
        case GatedRepoError():
            return f"{hub} gives access only to those who agree to its terms: agree on its page there, then {login}"
        case RevisionNotFoundError():
            return f"{hub} has the repository but no such revision: check what follows the @"
        case HfHubHTTPError() if error.response.status_code in (401, 404):  # a missing repository gives 401 too
            said = f"{error.response.status_code} {error.server_message or ''}".strip()
            return f"{hub} has no such repository, or won't show it to you ({said}): check the name, or {login}"
        case _ if is_homeless(error):
            return f"{NO_HOME}, for the cache of what {hub} sends"
        case HFValidationError():
            return f"it cannot be an id on the hub: {one_line(error)}"
    return f"its download from {hub} failed ({one_line(error)}): try again, or name a folder"
