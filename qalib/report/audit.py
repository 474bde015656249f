"""The audit: what a published card claims (`claims`), held against what can be computed.

Without the published weights the structural
twin (`synthetic`) stands in wherever values do not matter.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from qalib.model import checkpoint, synthetic
from qalib.model.checkpoint import Checkpoint
from qalib.qa.squad import QuestionSet
from qalib.report.claim import Evidence, Stated, is_number
from qalib.report.claims import CLAIMS
from qalib.utils.errors import InputError
from qalib.utils.files import read_json, read_text
from qalib.utils.paths import BUNDLED, PUBLISHED_MODELS


def stated_by(card: str) -> dict[str, str | None]:
    """The claims of a card's text by name, as they are written there; None for one that it does not make."""
    return {claim.name: claim.read(card) for claim in CLAIMS if claim.pattern}


def read(path: Path | str | None = None) -> dict[str, str | None]:
    """The claims in a card file; without one, those of the published 0.32 card, kept as facts.

    Raises InputError if the file makes none of the claims, or one that should be a number and is none.
    """
    if path is None:
        return dict(read_json(PUBLISHED_MODELS)["0.32"]["claims"])
    stated = stated_by(read_text(path))
    if not any(stated.values()):
        raise InputError(f"{path}: not a card of this family; none of its claims was found")
    for claim in CLAIMS:
        text = stated.get(claim.name)
        if text is not None and claim.unit != "text" and not is_number(text):
            raise InputError(f"{path}: {claim.name}: {text!r} is not a number")
    return stated


@contextmanager
def subject(model: str | None, reported: str | None = None) -> Iterator[Checkpoint]:
    """The checkpoint to audit: `model`, or a structural twin of the published 0.32 model, made for the occasion.

    The `reported` model, that of the report that the audit is part of, is taken if it is the published one or a twin.
    """
    published = read_json(PUBLISHED_MODELS)["0.32"]["config"]["_name_or_path"]
    if model is not None or reported is not None:
        loaded = checkpoint.load(model or reported)
        of_it = str(loaded.meta.get("twin_of", loaded.name)).split("/")[-1] == published.split("/")[-1]
        if model is not None or of_it:
            yield loaded
            return
    with TemporaryDirectory() as folder:
        yield checkpoint.load(synthetic.make(Path(folder) / "twin-of-0.32", vocabulary=BUNDLED))


def audit(
    stated: Stated,
    loaded: Checkpoint,
    data: QuestionSet,
    train: QuestionSet | None = None,
    device: str = "cpu",
    timed_questions: int = 8,
    progress: bool = True,
) -> pd.DataFrame:
    """Check every claim; one row a `Finding`. A structural twin has no answers: its EM and F1 need weights."""
    evidence = Evidence(stated, loaded, data, train, device, timed_questions, progress)
    return pd.DataFrame([asdict(claim.finding(evidence)) for claim in CLAIMS])
