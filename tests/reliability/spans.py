"""Answers never lie about where they are, and are scored as the definition says."""

import random
from collections import Counter

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from qalib import pipeline
from qalib.qa import metric
from reliability import damage, trial
from reliability.trial import Section

ODD = ["é", "e\u0301", "A\u030a", "\u0301", "ﬁ", "İ", "ß", "😀", "👩\u200d👧", "🗼\ufe0f", "🇫🇷",
       "東京", "서울", "ไทย", "שלום",
       "\u200b", "\u200d", "\ufeff", "\u00ad", "\u00a0", "\u3000", "\t", "\r\n", "\u2028",
       "\x00", "\x1b", "\ufffd", "\ue000", "[SEP]", "[CLS]",
       "Straße", "naïve", "1,234.56", "don't", "a" * 120]  # fmt: skip
PLANES = st.one_of(
    *(st.characters(min_codepoint=a, max_codepoint=b, exclude_categories=("Cs",)) for a, b in damage.PLANES)
)
WORDS = st.sampled_from("Paris the tower of built in 1889 is by Gustave red".split())
PIECES = st.one_of(WORDS, st.sampled_from(ODD), PLANES, st.text(max_size=5, alphabet=PLANES))
TEXTS = st.builds(
    lambda pieces, between, before: before + between.join(pieces),
    st.lists(PIECES, min_size=1, max_size=40), st.sampled_from([" ", "", "  ", "\n"]),
    st.sampled_from(["", " ", "\u200b \t"]),
).filter(bool)  # fmt: skip
OPTIONS = st.fixed_dictionaries(
    {"top_k": st.sampled_from([1, 3, 20]), "align_to_words": st.booleans(),
     "max_answer_len": st.sampled_from([1, 15, 500]),
     "handle_impossible_answer": st.booleans(), "max_seq_len": st.sampled_from([None, 384]),
     "doc_stride": st.sampled_from([None, 0, 8])}
)  # fmt: skip


def places(count: int = 2000, model: str = "bundled") -> Section:
    """Ask about so many drawn texts; whatever the answer is, it must stand where it says."""
    section = Section(
        "Answers are where they say", "`pipeline(...)(question=..., context=...)` of the bundled model on texts put "
        "together from words, accents, combining marks, emoji, CJK, zero-width and control characters and every "
        "Unicode plane, with leading spaces, and options drawn with them.", ("what", "count"),
    )  # fmt: skip
    ask, seen, wrong = pipeline(model=model), Counter(), []

    @seed(trial.SEED)
    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(TEXTS, TEXTS, OPTIONS, st.sampled_from([1, 1, 1, 1, 60]))
    def drawn(question: str, context: str, options: dict, times: int) -> None:
        context = context * times
        found = ask(question=question, context=context, **options)
        seen["questions asked"] += 1
        seen["characters of context beyond ASCII"] += sum(not c.isascii() for c in context)
        for answer in found if isinstance(found, list) else [found]:
            start, end = answer["start"], answer["end"]
            seen["answers" if answer["answer"] else "empty answers"] += 1
            if not (0 <= start <= end <= len(context) and context[start:end] == answer["answer"]):
                wrong.append((question, context, answer))

    drawn()
    for what, number in sorted(seen.items()):
        section.row(what, number)
    section.row("answers that are not context[start:end]", len(wrong))
    section.expect(not wrong, f"not where it says: {wrong[:1]}")
    section.expect(seen["answers"] >= count // 2, "hardly any answers")
    return section


def without_articles(text: str) -> str:
    """Every whole word a, an, the becomes a space; a word is an unbroken run of letters, digits and underscores."""
    pieces, run = [], ""
    for character in [*text, ""]:
        if character and (character.isalnum() or character == "_"):
            run += character
        else:
            pieces += [" " if run in ("a", "an", "the") else run, character]
            run = ""
    return "".join(pieces)


def words(text: str) -> list[str]:
    """Words after lowering, dropping ASCII punctuation and then articles, as the paper's section 6.1 says."""
    kept = [c for c in text.lower() if not (c.isascii() and c.isprintable() and not c.isalnum() and c != " ")]
    return without_articles("".join(kept)).split()


def f1(prediction: str, reference: str) -> float:
    """Mean over words shared: each word of the reference is used up by one of the prediction."""
    predicted, left, shared = words(prediction), words(reference), 0
    length = len(left)
    for word in predicted:
        if word in left:
            left.remove(word)
            shared += 1
    return 2 * shared / (len(predicted) + length) if shared else 0.0


def scores(count: int = 10_000) -> Section:
    """Score so many random pairs twice: by the package, and from the definition."""
    section = Section(
        "EM and F1 are what they are defined to be", "Random pairs of answers, a third of them nearly alike, scored by "
        "the package and by a second implementation that shares nothing with it.",
        ("pairs", "equal", "overlapping", "differences in EM", "in F1"),
    )  # fmt: skip
    rng, seen = random.Random(trial.SEED), Counter()
    pool = [
        *"the a an The AN cat dog U.S. it's in 1889 1,889 _the_ the\u00a3 the-cat 'the' a.m. \u201cthe\u201d".split(),
        *ODD[:-1],
        "",
        "%",
    ]
    for _ in range(count):
        one = [rng.choice(pool) for _ in range(rng.randrange(6))]
        other = one[:] if rng.random() < 0.35 else [rng.choice(pool) for _ in range(rng.randrange(6))]
        if other and rng.random() < 0.5:
            other[rng.randrange(len(other))] = rng.choice(pool)
        prediction, reference = (rng.choice((" ", " ", "", ", ")).join(text) for text in (one, other))
        seen["equal"] += metric.exact_match(prediction, reference)
        seen["overlap"] += metric.f1(prediction, reference) > 0
        seen["em"] += metric.exact_match(prediction, reference) != (words(prediction) == words(reference))
        if abs(metric.f1(prediction, reference) - f1(prediction, reference)) > 1e-12:
            seen["f1"] += 1
            section.expect(False, f"F1 of {prediction!r} and {reference!r}")
    section.row(count, seen["equal"], seen["overlap"], seen["em"], seen["f1"])
    section.expect(not seen["em"], f"{seen['em']} differences in EM")
    return section
