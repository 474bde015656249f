"""The wordings of pruned models' cards: patterns that read the stated figures, and sentences that no pattern reads.

They cover madlag's first block-sparse cards (2020), nn_pruning's (2021, by madlag and echarlaix), Intel's (Prune OFA),
and this package's own. Patterns are for `plain` text; the first group is what is stated.
"""

import re

WORDINGS: dict[str, tuple[str, ...]] = {
    "model": (r'model="([\w.-]+/[\w.-]+)"',),
    "data set": (r"\|\s*(SQuAD ?[\d.]+)\s*\|\s*(?:train|eval)\b",),
    "linear density": (
        r"linear layers contains? ([\d.]+) ?%",
        r"linear layers keep ([\d.]+) ?% of their weights",
    ),
    "overall density": (
        r"contains? ([\d.]+) ?% of the original weights overall",
        r"the model overall ([\d.]+) ?%",
    ),
    "heads removed": (
        r"(\d+) heads were removed on a total of \d+",
        r"(\d+) of \d+ attention heads \([\d.]+ ?%\) have",
    ),
    "heads in total": (
        r"heads were removed on a total of (\d+)",
        r"\d+ of (\d+) attention heads \([\d.]+ ?%\) have",
    ),
    "share of heads removed": (
        r"heads were removed on a total of \d+ \(([\d.]+) ?%\)",
        r"\d+ of \d+ attention heads \(([\d.]+) ?%\) have",
    ),
    "layer norm": (r"it uses (NoNorms) instead of LayerNorms",),
    "activation": (r"It uses (ReLUs) instead of GeLUs",),
    "file size": (r"file size: ([\d.]+) ?MB?\b",),
    "original file size": (r"original BERT: ([\d.]+) ?MB?\b",),
    "original parameters": (r"\bparameters: ([\d.]+)M\b",),
    "train samples": (r"\|\s*train\s*\|\s*([\d.]+[kK]?)\s*\|",),
    "eval samples": (r"\|\s*eval\s*\|\s*([\d.]+[kK]?)\s*\|",),
    "usage example": (r'from transformers import pipeline.{0,2000}?pipeline\(\s*"([\w-]+)"',),
    "speedup": (r"it ran ([\d.]+)x faster than", r"it ran ([\d.]+)x as fast as"),
    "exact match": (r"\|\s*EM\s*\|\s*([\d.]+)\s*\|", r'"exact(?:_match)?":\s*([\d.]+)'),
    "F1": (r"\|\s*F1\s*\|\s*([\d.]+)\s*\|", r"its F1 is ([\d.]+)", r'"f1":\s*([\d.]+)'),
    "original exact match": (r"\|\s*EM\s*\|\s*[\d.]+\s*\|\s*([\d.]+)",),
    "original F1": (r"\|\s*F1\s*\|\s*[\d.]+\s*\|\s*([\d.]+)", r"its F1 is [\d.]+, compared with ([\d.]+)"),
    "exact match over the original": (r"\|\s*EM\s*\|\s*[\d.]+\s*\|\s*[\d.]+\s*\|\s*([+-]?\d+\.\d+)",),
    "F1 over the original": (r"\|\s*F1\s*\|\s*[\d.]+\s*\|\s*[\d.]+\s*\|\s*([+-]?\d+\.\d+)",),
    "F1 in words": (r"a F1 ((?:gain|drop) of [+-]?\d+\.\d+)",),
    "machine": (r"CPU: [^\n]+\nMemory: [^\n]+\nGPUs: ([^\n]+)(?:\nGPU driver: [^\n]+)?", r"GPUs: ([^\n]+)"),
}
# Words that show that a sentence is about a claim, by the claim's name, even if no pattern can read the sentence.
CUES = {
    "linear density": r"(?i)linear|spars|densit",
    "overall density": r"(?i)\boverall\b",
    "heads removed": r"(?i)\bheads\b",
    "file size": r"(?i)\bsize\b|\b[MG]i?B\b",
    "speedup": r"(?i)\bfast|speed|\btimes\b|\d ?x\b",
    "exact match": r"\bEM\b|(?i:\bexact)",
    "F1": r"(?i)\bf1\b",
    "train samples": r"(?i)\btrain",
    "eval samples": r"(?i)\beval",
}
FIGURE = re.compile(
    r"(?<![\w.])[+-]?\d[\d,.]*\s*(?:%|x\b|×|times\b|[kKM]\b|[kKMG]i?B\b|(?:\w+ )?(?:heads|parameters|neurons|blocks)\b)"
    r"|\b(?:EM|F1|f1|[Ee]xact[ _][Mm]atch|accuracy)\b[^\n|\d]{0,20}\d[\d.]*"
    r"|\|\s*[+-]?\d[\d.]*(?=\s*\|)"
    r'|"\w+":\s*-?\d[\d.]*'
)
NOT_UNDERSTOOD = "not understood"


def plain(card: str) -> str:
    """A card's text without metadata, bold, code marks, link targets and tags."""
    text = re.sub(r"\A\s*---\n.*?\n---\n", "", card, flags=re.DOTALL)
    text = re.sub(r"\*\*|(?<!`)`(?!`)", "", text)
    return re.sub(r"</?[a-z][^>\n]*>|(?<=\])\(\S*?\)", "", text)


def read(card: str) -> dict[str, str | None]:
    """What a card states, verbatim, by the names in WORDINGS; None for what it does not state.

    Under NOT_UNDERSTOOD, one per line, its sentences with a figure that no pattern reads.
    """
    text, stated, spans = plain(card), {}, []
    for name, patterns in WORDINGS.items():
        found = [match for pattern in patterns for match in re.finditer(pattern, text, re.DOTALL)]
        stated[name] = found[0].group(1) if found else None
        spans += [match.span() for match in found]
    unread = [
        " ".join(text[start:end].split())
        for start, end in _sentences(text)
        if any(not _within(match.span(), start, spans) for match in FIGURE.finditer(text[start:end]))
    ]
    return stated | {NOT_UNDERSTOOD: "\n".join(dict.fromkeys(unread)) or None}


def _within(span: tuple[int, int], start: int, spans: list[tuple[int, int]]) -> bool:
    """Has a pattern read the figure at `span`, which is relative to the sentence's `start`?"""
    return any(first < span[1] + start and span[0] + start < last for first, last in spans)


def _sentences(text: str) -> list[tuple[int, int]]:
    """Where sentences, table rows, and code blocks other than Python begin and end."""
    places = []
    for part in re.finditer(r"```(\w*).*?```|[^\n]+", text, re.DOTALL):
        if part.group().startswith("```"):
            places += [] if part.group(1) == "python" else [part.span()]
            continue
        row = part.group().lstrip().startswith("|")
        cuts = [] if row else [match.end() for match in re.finditer(r"[.!?]\s+(?=[A-Z\[])", part.group())]
        ends = [part.start() + cut for cut in (0, *cuts, len(part.group()))]
        places += zip(ends, ends[1:], strict=False)
    return places
