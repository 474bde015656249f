"""A card's claim, the evidence it is checked against, and the verdicts.

The claims themselves are in `claims_of_structure` and `claims_of_runs`; `wordings` has the words that state them. To
add a claim, decorate the function that computes our value:

    @claim("name", "unit", "by which definition")
    def name(evidence: Evidence) -> CheckResult: ...

Where two definitions are plausible, the same name appears twice, with different labels.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

from qalib import runtimes, sparsity
from qalib.model.checkpoint import Checkpoint
from qalib.qa import evaluation
from qalib.qa.squad import QuestionSet
from qalib.report.wordings import CUES, NOT_UNDERSTOOD

# Verdicts; also NEEDS_WEIGHTS, for structural twins, and NOT_UNDERSTOOD.
REPRODUCED = "reproduced"
DIFFERS = "differs"
NOT_STATED = "not stated"
NEEDS_GPU = "needs a GPU"
NOT_CHECKABLE = "not checkable"

Stated = Mapping[str, str | None]  # what a card states, verbatim, by the claims' names


@dataclass(frozen=True)
class Evidence:
    """What claims are checked against; each part is computed on first use."""

    stated: Stated
    loaded: Checkpoint
    data: QuestionSet
    train: QuestionSet | None
    device: str
    timed_questions: int
    progress: bool

    @cached_property
    def summary(self) -> sparsity.Summary:
        """The counts of the checkpoint."""
        return sparsity.summary(self.loaded)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes by form (`sparsity.file_sizes`), plus those of the dense model with a pooler."""
        sizes = sparsity.file_sizes(self.loaded).set_index("form").bytes.to_dict()
        hidden = self.loaded.model.config.hidden_size
        return sizes | {"dense fp32, pooler": sizes["dense fp32"] + 4 * (hidden * hidden + hidden)}

    @cached_property
    def score(self) -> dict[str, float] | None:
        """EM and F1 on the question set; None for a structural twin."""
        if self.loaded.unscored:
            return None
        model = runtimes.build(runtimes.best(self.device), self.loaded, self.device)
        return asdict(evaluation.evaluate(model, self.loaded.tokenizer, self.data, progress=self.progress).score)


@dataclass(frozen=True)
class CheckResult:
    """Our value for a claim (None if we cannot get one), and its explanation.

    Without a `verdict`, the claim is reproduced if our value prints as stated. A `definition` replaces the claim's with
    a more specific one.
    """

    ours: float | str | None
    explanation: str
    verdict: str | None = None
    definition: str | None = None


Check = Callable[[Evidence], CheckResult]


@dataclass(frozen=True)
class Finding:
    """One claim: as the card states it, what we found, the unit, the definition, and the verdict."""

    claim: str
    stated: str
    ours: str
    unit: str
    definition: str
    verdict: str
    explanation: str


@dataclass(frozen=True)
class Claim:
    """What cards state under a name in WORDINGS, and the function that checks it.

    If a card only suggests a figure, `implied` derives it from its other claims.
    """

    name: str
    unit: str
    definition: str
    check: Check
    label: str
    implied: Callable[[Stated], str | None] | None = None

    def finding(self, evidence: Evidence) -> Finding:
        """Check the claim."""
        text = self.implied(evidence.stated) if self.implied else evidence.stated.get(self.name)
        result = self.check(evidence)
        same = text and isinstance(result.ours, int | float) and prints_as(result.ours, text)
        verdict = result.verdict or (REPRODUCED if same else DIFFERS)
        explanation = result.explanation
        if not text:
            text = unread(evidence.stated, self.name)
            verdict = NOT_UNDERSTOOD if text else NOT_STATED
            explanation = "the card's wording is not recognised" if text else "the card does not say"
        return Finding(
            claim=self.label,
            stated=text or "",
            ours=_shown(result.ours),
            unit=self.unit,
            definition=result.definition or self.definition,
            verdict=verdict,
            explanation=explanation,
        )


def register_in(claims: list[Claim]) -> Callable[..., Callable[[Check], Check]]:
    """The decorator `claim(name, unit, definition, label, implied)` that adds a claim, with its function, to a list."""

    def claim(
        name: str,
        unit: str,
        definition: str,
        label: str | None = None,
        implied: Callable[[Stated], str | None] | None = None,
    ) -> Callable[[Check], Check]:
        def register(check: Check) -> Check:
            claims.append(Claim(name, unit, definition, check, label or name, implied))
            return check

        return register

    return claim


def unread(stated: Stated, name: str) -> str | None:
    """The first sentence that mentions a claim and was not understood, or None."""
    if name not in CUES or stated.get(name):
        return None
    sentences = (stated.get(NOT_UNDERSTOOD) or "").splitlines()
    return next((sentence for sentence in sentences if re.search(CUES[name], sentence)), None)


def prints_as(value: float, text: str) -> bool:
    """Does a value print as the card's text, at the card's precision? "90.6K" means thousands.

    >>> prints_as(31.65, "31.7"), prints_as(90569, "90.6K"), prints_as(11033, "11.1k")
    (True, True, False)
    """
    number = text.rstrip("kK")
    scale = 1000 if number != text else 1
    decimals = len(number.partition(".")[2])
    return abs(value / scale - float(number)) <= 0.5 * 10**-decimals + 1e-9


def is_number(text: str) -> bool:
    """Is the text of a claim a number above 0, possibly in thousands with a k?

    >>> is_number("90.6K"), is_number("0.0"), is_number("3.1.7")
    (True, False, False)
    """
    return re.fullmatch(r"(?=[1-9]|0*\.?0*[1-9])[0-9]{1,12}(\.[0-9]{1,12})?[kK]?", text) is not None


def _shown(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:,.2f}" if value % 1 else f"{value:,.0f}"
