"""Where a checkpoint is: the bundled one, a folder, or a repository on the model hub."""

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from qalib.errors import InputError
from qalib.formats import PACKED, PICKLED, SAFETENSORS

BUNDLED = Path(__file__).resolve().parent.parent / "models" / "minilm-l6-squad-block-sparse"


def locate(source: str) -> tuple[str, Path, str | None]:
    """The name of a checkpoint, the folder that holds it, and its commit on the hub (None for a folder).

    `source` is `bundled`, a folder, or a hub id with an optional `@revision`, downloaded unless the hub's cache
    has it. Raises InputError that says what was tried.
    """
    if source == "bundled":
        if not BUNDLED.is_dir():
            raise InputError(
                f"{BUNDLED}: the bundled model is not there; it is part of the repository, not of the wheel"
            )
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
    def fetch(*patterns: str) -> Path:
        return Path(huggingface_hub.snapshot_download(identifier, revision=revision, allow_patterns=list(patterns)))

    asked = f"{identifier}@{revision}" if revision else identifier
    try:
        folder = fetch("config.json", "model_meta.json", "*token*.json", "vocab.txt", "*.safetensors")
        if not (folder / SAFETENSORS).exists() and not (folder / PACKED).exists():
            folder = fetch("config.json", PICKLED)
    except LocalEntryNotFoundError:
        raise InputError(
            f"{asked}: no such folder, and the hub cannot be reached (or HF_HUB_OFFLINE is set) while its cache does "
            f"not have it; download it where there is a network, or name a folder"
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(f"{asked}: no such folder, and the hub answers: {' '.join(str(error).split())}") from None
    return folder, folder.name
