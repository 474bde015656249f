"""Publishing on the hub: a checkpoint with its report's card and figures, in one folder and then in a repository.

weights, config.json, tokenizer, model_meta.json, LICENSE, NOTICE    as in the checkpoint's folder
README.md, *.svg, density_chart.html                                 the card
results.json                                                         every number with its definition
.eval_results/squad.yaml                                             EM and F1 as the hub reads them, if the card
                                                                     has any: for all of SQuAD dev only
"""

import re
import shutil
from pathlib import Path
from typing import Any, cast

import huggingface_hub
import yaml
from huggingface_hub import EvalResultEntry, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from qalib.model import checkpoint, hub
from qalib.qa import squad
from qalib.report import results
from qalib.utils.errors import InputError, one_line
from qalib.utils.files import atomic_folder, read_json, read_text, write_text
from qalib.utils.folders import copy_into

EVALUATION = Path(".eval_results", "squad.yaml")
RELATIVE = re.compile(r"\]\((?![a-z]+:|#|/)([^)#\s]+)")


def assemble(report: Path, out: Path, model: str | None = None) -> Path:
    """Write a folder with a report's card and its model, by default the one that the report names.

    Raises InputError if `report` is not a report, `out` is not empty, the model is not the one reported on, or the
    hub's loaders cannot read what was written (`check`).
    """
    manifest = read_json(report / "manifest.json")
    try:
        stated, finished = manifest["model"]["sha256"], manifest["finished"]
    except (KeyError, TypeError):
        raise InputError(f"{report / 'manifest.json'}: not a report's manifest") from None
    loaded = checkpoint.load(model or str(results.read(report)["model_source"].value))
    if loaded.sha256 != stated:
        raise InputError(
            f"{loaded.weight_file}: not the model of the report {report}, whose SHA-256 is {stated[:12]}...; "
            "name it with --model"
        )
    with atomic_folder(out) as draft:
        companions = [path for pattern in hub.COMPANION_FILES for path in loaded.folder.glob(pattern)]
        for path in loaded.weight_files:  # which hold tensors, wherever they are
            shutil.copy(path, draft)
        for path in [*companions, *(report / "card").iterdir(), report / "results.json"]:
            copy_into(path, draft)
        if scores := _scores(read_card(draft), finished):
            write_text(draft / EVALUATION, yaml.safe_dump(scores, sort_keys=False))
        check(draft)
    return Path(out)


def check(folder: Path) -> None:
    """Read everything with the hub's own loaders, and load the checkpoint. Raises InputError if anything is refused."""
    card = read_card(folder)
    if absent := sorted(name for name in {*RELATIVE.findall(card.text)} if not (folder / name).is_file()):
        raise InputError(f"{folder / 'README.md'}: links to files that are not in the folder: {', '.join(absent)}")
    if (path := folder / EVALUATION).exists():
        try:
            huggingface_hub.parse_eval_result_entries(yaml.safe_load(read_text(path)))
        except Exception as error:  # the library raises many kinds
            raise InputError(f"{path}: not evaluation results: {one_line(error)}") from None
    _ = checkpoint.load(folder).tokenizer


def read_card(folder: Path) -> ModelCard:
    """The card, read by the hub's loader. Raises InputError if the loader refuses its metadata."""
    path = folder / "README.md"
    read_text(path)
    try:
        return ModelCard.load(path)
    except Exception as error:  # the library raises many kinds
        raise InputError(f"{path}: not a card: {one_line(error)}") from None


def upload(folder: Path, repository: str, private: bool = False) -> str:
    """Upload a folder to a repository on the hub, created if need be; returns the commit's URL.

    Raises InputError saying what the hub or the client refused.
    """
    check_name(repository)
    try:
        HfApi().create_repo(repository, private=private, exist_ok=True)
        return str(HfApi().upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Model, card and results by qalib"
        ).commit_url)  # fmt: skip
    except Exception as error:  # from the network, the hub or the library
        raise InputError(f"{repository}: not uploaded ({one_line(error)}); to log in: hf auth login") from None


def check_name(repository: str) -> None:
    """Raises InputError if this cannot be a repository's id."""
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"{repository}: cannot be an id on the hub: {one_line(error)}") from None


def _scores(card: ModelCard, finished: str) -> list[dict[str, Any]]:
    """The card's scores as entries for `.eval_results`, if it has any."""
    entries = [
        EvalResultEntry(
            dataset_id=dataset, task_id=score.metric_type, value=score.metric_value, date=finished,
            notes=f"{score.metric_name} on all of SQuAD v{version} dev, official metric, by qalib",
        )
        for score in cast(ModelCardData, card.data).eval_results or ()
        for dataset, version in [squad.ON_HUB[score.dataset_type]]
    ]  # fmt: skip
    return huggingface_hub.eval_result_entries_to_yaml(entries)
