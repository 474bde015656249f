"""The audit: what a published card claims, checked against what can be computed.

Without the published weights, a structural twin (`synthetic`) stands in wherever values do not matter.
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
from qalib.report import claims_of_runs, claims_of_structure, wordings
from qalib.report.claim import Evidence, Finding, Stated, is_number
from qalib.report.wordings import NOT_UNDERSTOOD
from qalib.utils.errors import InputError
from qalib.utils.files import read_json, read_text
from qalib.utils.paths import BUNDLED, PUBLISHED_MODELS

CLAIMS = [*claims_of_structure.CLAIMS, *claims_of_runs.CLAIMS]


def read(path: Path | str | None = None) -> dict[str, str | None]:
    """The claims in a card file (`wordings.read`); without a file, those of the published 0.32 card, kept as facts.

    Raises InputError if the file makes none of the claims, or if one that should be a number isn't.
    """
    if path is None:
        return dict(read_json(PUBLISHED_MODELS)["0.32"]["claims"])
    stated = wordings.read(read_text(path))
    if not any(text for name, text in stated.items() if name not in ("model", NOT_UNDERSTOOD)):
        raise InputError(f"{path}: not a card of this family; none of its claims was found")
    for claim in CLAIMS:
        text = stated.get(claim.name)
        if text is not None and claim.unit not in ("text", "points") and not is_number(text):
            raise InputError(f"{path}: {claim.name}: {text!r} is not a number")
    return stated


@contextmanager
def checkpoint_to_audit(
    model: str | None, reported: str | None = None, stated: Stated | None = None
) -> Iterator[Checkpoint]:
    """The checkpoint to audit: `model`, or a temporary structural twin of the one that the card names.

    The `reported` model, of the report that the audit belongs to, is used if it is that model or its twin. A card that
    names no model is taken for the published 0.32 card. Raises InputError if no twin of the model can be made.
    """
    facts = read_json(PUBLISHED_MODELS)
    twins = {facts[name]["config"]["_name_or_path"].split("/")[-1]: name for name in synthetic.published_names()}
    named = ((stated or {}).get("model") or next(iter(twins))).split("/")[-1]
    if source := model or reported:
        loaded = checkpoint.load(source)
        of_it = str(loaded.meta.get("twin_of", loaded.name)).split("/")[-1] == named
        if model is not None or of_it:
            yield loaded
            return
    if named not in twins:
        raise InputError(f"the card is for {named}, and no twin of that can be made; name its checkpoint as the model")
    with TemporaryDirectory() as folder:
        yield checkpoint.load(synthetic.make_twin(Path(folder) / "twin", twins[named], vocabulary=BUNDLED))


def audit(
    stated: Stated,
    loaded: Checkpoint,
    data: QuestionSet,
    train: QuestionSet | None = None,
    device: str = "cpu",
    timed_questions: int = 8,
    progress: bool = True,
) -> pd.DataFrame:
    """Check every claim: one row per `Finding`, and one per sentence with a figure that belongs to none of them.

    A structural twin has no answers: its EM and F1 need weights.
    """
    evidence = Evidence(stated, loaded, data, train, device, timed_questions, progress)
    findings = [claim.finding(evidence) for claim in CLAIMS]
    told = {finding.stated for finding in findings if finding.verdict == NOT_UNDERSTOOD}
    for sentence in (stated.get(NOT_UNDERSTOOD) or "").splitlines():
        if sentence not in told:
            why = "a figure that no claim here covers, or whose wording is not recognised"
            findings.append(Finding("another figure", sentence, "", "", "", NOT_UNDERSTOOD, why))
    return pd.DataFrame([asdict(finding) for finding in findings])
