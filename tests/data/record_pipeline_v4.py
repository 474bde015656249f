"""Record what the question-answering pipeline of transformers 4 answers: writes pipeline_v4.json beside this file.

To be run with transformers 4.57.1, which still has the pipeline, and with the dense model in $QALIB_SHARED/models:

    QALIB_SHARED=... python tests/data/record_pipeline_v4.py

The tests take from here only `tiny_model`, so that both sides have the same weights.
"""

import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

HERE = Path(__file__).parent
DENSE = "minilm-l6-squad-dense"

TEXTS = {
    "chopin": "Frédéric François Chopin, born Fryderyk Franciszek Chopin (1 March 1810 – 17 October 1849), was a "
    "Polish composer and virtuoso pianist of the Romantic era who wrote primarily for solo piano.",
    "eiffel": "The Eiffel Tower is a wrought-iron lattice tower on the Champ de Mars in Paris, France. It is named "
    "after the engineer Gustave Eiffel, whose company designed and built the tower.",
    "accents": "Éric's café in São Paulo serves crème brûlée; Zoë prefers Łódź, and Ångström said “naïve façade” "
    "in Málaga.",
    "combining": "Zoe\u0308 drank a cafe\u0301 in Sa\u0303o Paulo with A\u030angstro\u0308m and Lo\u0301pez "
    "e\u0301 e\u0302e\u0301.",
    "emoji": "We ate \U0001f355 in Tokyo \U0001f5fc\ufe0f with \U0001f469\u200d\U0001f469\u200d\U0001f467 on "
    "Sunday\U0001f600. Then \U0001f1eb\U0001f1f7 came.",
    "chinese": "東京は日本の首都です。人口は約1400万人で、京都より大きい。North of 東京 lies Saitama.",
    "korean": "서울은 대한민국의 수도이다. 서울 has a river, 한강.",
    "mixed": "ﬁnance in İstanbul, Straße №5, ½ of ١٢٣, Ωμέγα, שלום and ไทย; Tiếng Việt too.",
    "spaces": "  \t The  parrot \n\n is   in the\u00a0kitchen\u200b , he \u00ad said .  \r\n ",
    "pieces": "pneumonoultramicroscopicsilicovolcanoconiosis: see https://example.org/a_b?c=1,234.56#x "
    "(don't!) 3.5% a.m.",
    "special": "In Paris [SEP] he said [UNK] and [MASK] it.",
    "repeats": "no No NO no, no. No! no no (no) nO no; no no No no no no no no no no no",
    "word": "Paris",
    "blank": " ",
    "empty": "",
    "long": " ".join(
        f"In {1700 + 7 * n} the town of Port {name} built its lighthouse number {n}, {30 + 3 * n} feet tall, "
        f"under the mayor {who} {name}son."
        for n, (name, who) in enumerate(
            zip(
                "Adler Berlin Corvin Dover Elgin Farrow Galway Hastings Irving Jarrow Kelso Lerwick Morris Naples Oban "
                "Perth Quincy Ripon Selby Truro Upton Vernon Whitby York Zennor".split(),
                "Anna Boris Clara David Emma Frank Greta Henry Ida James Kate Louis Mary Nina Oscar Paul Rita Sam Tina "
                "Uwe Vera Will Xenia Yann Zoe".split(),
                strict=True,
            )
        )
    ),
    "cities": "London is big. " * 40 + "The answer is Paris. " + "Rome is old. " * 45 + "the answer is PARIS. " * 2,
    "who": "Who is Frederic Chopin?",
    "where": "Where is it?",
    "when": "When did Port Kelso build its lighthouse?",
    "wordy": "Given that every town of the coast built a lighthouse at some time, some of them small and others rather "
    "large, and that the mayors, who came from many different families and who rarely agreed with one another on "
    "anything at all, nevertheless found the money for the stones, the wood, the glass and the oil that such a "
    "building needs in the long and stormy winters of the north, when did the people of Port Kelso build theirs?",
    "huge": "word " * 300 + "?",
}  # fmt: skip

# Where transformers 4 crashes or answers at random: the tests say what is done instead.
DIFFERS = {
    "as many spans as asked for": "numpy's partition is asked for one element more than there are",
    "no room for the overlap": "the tokenizer panics",
    "no room for the context": "the tokenizer fails, with a bare Exception",
    "a dict of questions on one context": "each question is paired with one character of the context",
    "a dict with other keys": "the keys become arguments of a function that does not have them",
    "lists in two dicts": "nested lists are not looked into",
    "too long for the model": "shapes do not match, deep in the model",
    "combining, best 3": "marks that follow the last letter are cut off",
    "emoji, best 3": "marks that follow the last letter are cut off",
    "[CLS] in the question": "[CLS] in the question can be part of an answer",
}


def cases() -> list[dict]:
    """The calls to record. `$name` stands for a text; `many` says that there is a result for each of many questions."""
    found = []

    def case(name, *args, setup=None, many=False, dense=True, **kwargs):
        for model in ("tiny", "dense") if dense else ("tiny",):
            given = {"setup": setup or {}, "many": many, "args": args, "kwargs": kwargs}
            found.append({"name": name, "model": model} | given)

    def ask(name, question, context, **options):
        case(name, question=f"${question}", context=f"${context}", **options)

    ask("card example", "who", "chopin")
    for context in "eiffel accents combining emoji chinese korean mixed spaces pieces special".split():
        ask(f"{context}, best 3", "where", context, top_k=3)
    for context in "chinese korean accents pieces mixed".split():
        ask(f"{context}, not whole words", "where", context, top_k=3, align_to_words=False)
    ask("best 20", "who", "chopin", top_k=20)
    ask("best 20, not whole words", "who", "chopin", top_k=20, align_to_words=False)
    for most in (1, 5, 30, 1000):
        ask(f"answers of {most} tokens", "where", "eiffel", max_answer_len=most, top_k=3)
    ask("repeats", "where", "repeats", top_k=20)
    ask("repeats, one answer of three", "where", "repeats", top_k=3, max_answer_len=1)
    ask("impossible", "where", "eiffel", handle_impossible_answer=True)
    ask("impossible, best 3", "who", "eiffel", handle_impossible_answer=True, top_k=3)
    ask("impossible, long", "who", "long", handle_impossible_answer=True, top_k=3)
    ask("long", "when", "long")
    ask("long, best 20", "when", "long", top_k=20)
    ask("long, small windows", "when", "long", max_seq_len=64, doc_stride=24, top_k=3)
    ask("long, no overlap", "when", "long", max_seq_len=50, doc_stride=0, top_k=3)
    ask("much overlap", "where", "eiffel", max_seq_len=30, doc_stride=20, top_k=3)
    ask("cut words", "where", "pieces", max_seq_len=16, doc_stride=4, top_k=20)
    ask("long, large windows", "when", "long", max_seq_len=500, top_k=3)
    ask("long, batches", "when", "long", max_seq_len=100, batch_size=4, top_k=3)
    ask("long, padded", "when", "long", max_seq_len=100, padding="max_length", top_k=3)
    ask("long, padded to the longest", "when", "long", max_seq_len=100, padding=True)
    ask("long, not whole words", "when", "long", align_to_words=False, top_k=20)
    ask("sums over windows", "where", "cities", top_k=20)
    ask("sums over small windows", "where", "cities", max_seq_len=48, doc_stride=16, top_k=3)
    ask("wordy question", "wordy", "long", max_seq_len=384, top_k=3)
    ask("wordy question, max_question_len", "wordy", "long", max_seq_len=384, max_question_len=10)
    ask("wordy question, short context", "wordy", "eiffel", max_seq_len=384)
    ask("huge question, short context", "huge", "word", max_seq_len=384)
    ask("one word", "where", "word")
    ask("one word, best 3", "where", "word", top_k=3)
    ask("blank context", "where", "blank")
    ask("blank context, impossible", "where", "blank", handle_impossible_answer=True)
    ask("blank question", "blank", "eiffel")

    pair = {"question": "$who", "context": "$chopin"}
    other = {"question": "$where", "context": "$eiffel"}
    case("dict", pair)
    case("list of dicts", [pair, other], many=True)
    case("list of dicts, best 3, batches", [pair, other, pair], top_k=3, batch_size=2, many=True)
    case("list of dicts, long", [pair, {"question": "$when", "context": "$long"}, other], batch_size=3, many=True)
    case("list of one dict", [pair], dense=False)
    case("tuple of dicts", (pair, other), many=True, dense=False)
    case("two dicts", pair, other, many=True, dense=False)
    case("two strings", "$who", "$chopin", dense=False)
    case("lists", question=["$who", "$where"], context=["$chopin", "$eiffel"], many=True, dense=False)
    case("lists of one", question=["$who"], context=["$chopin"], dense=False)
    case("questions on one context", question=["$who", "$where"], context="$chopin", many=True, dense=False)
    case("dict of lists", {"question": ["$who", "$where"], "context": ["$chopin", "$eiffel"]}, many=True, dense=False)
    case("dict of lists of one", {"question": ["$who"], "context": ["$chopin"]}, many=True, dense=False)
    case("empty list", [], many=True, dense=False)
    case("data", data=[pair, other], many=True, dense=False)
    case("data, one dict", data=pair, dense=False)
    case("X", X=[pair, other], many=True, dense=False)
    case("X, one dict", X=pair, dense=False)
    case("X before data and question", X=pair, data=other, question="$when", context="$long", dense=False)
    case("positional before X", other, X=pair, dense=False)
    case("X of a number", X=3, dense=False)
    case("no workers", pair, num_workers=0, dense=False)
    case("set up, no workers", pair, setup={"num_workers": 0}, dense=False)
    case("topk", pair, topk=2, dense=False)
    case("None is the default", pair, top_k=None, max_seq_len=None, dense=False)
    case("set up", pair, setup={"top_k": 3, "max_answer_len": 4}, dense=False)
    case("set up, set otherwise", pair, setup={"top_k": 3, "max_answer_len": 4}, top_k=2, dense=False)
    case("set up, batches", [pair, other], setup={"batch_size": 2}, many=True, dense=False)

    ask("no question", "empty", "eiffel", dense=False)
    ask("no context", "where", "empty", dense=False)
    case("no context in the list", [pair, {"question": "$who", "context": ""}], dense=False)
    case("context missing", {"question": "$who"}, dense=False)
    case("context None", {"question": "$who", "context": None}, dense=False)
    case("context not given", question="$who", dense=False)
    case("nothing", dense=False)
    case("one string", "$who", dense=False)
    case("number", 3, dense=False)
    case("lengths differ", question=["$who", "$where"], context=["$chopin"], dense=False)
    case("contexts for one question", question="$who", context=["$chopin", "$eiffel"], dense=False)
    case("top_k 0", pair, top_k=0, dense=False)
    case("max_answer_len 0", pair, max_answer_len=0, dense=False)
    case("batch_size 0", pair, batch_size=0, dense=False)
    case("padding unknown", pair, padding="some", dense=False)
    case("set up, top_k 0", pair, setup={"top_k": 0}, dense=False)
    case("doc_stride over max_seq_len", pair, max_seq_len=20, doc_stride=21, dense=False)

    case("as many spans as asked for", question="who", context="he is", top_k=13, dense=False)
    ask("no room for the overlap", "where", "eiffel", max_seq_len=20, doc_stride=18, dense=False)
    ask("no room for the context", "huge", "long", max_seq_len=200, dense=False)
    case("a dict of questions on one context", {"question": ["$who", "$where"], "context": "$chopin"}, dense=False)
    case("a dict with other keys", pair | {"id": 1}, dense=False)
    case("lists in two dicts", [{"question": ["$who"], "context": ["$chopin"]}, pair], dense=False)
    ask("too long for the model", "when", "long", max_seq_len=600, dense=False)
    case("[CLS] in the question", question="[CLS] where [CLS]?", context="he was in paris", top_k=5, dense=False)
    return found


def filled(value, texts: dict[str, str]):
    """`value` with each `$name` replaced by its text."""
    if isinstance(value, str):
        return texts[value[1:]] if value.startswith("$") else value
    if isinstance(value, dict):
        return {key: filled(item, texts) for key, item in value.items()}
    return [filled(item, texts) for item in value] if isinstance(value, (list, tuple)) else value


def tiny_model(folder: Path) -> None:
    """Write a BERT of 2 layers with random weights, the same everywhere, and its tokenizer (tiny_vocab.txt)."""
    vocabulary = (HERE / "tiny_vocab.txt").read_text(encoding="utf-8")
    hidden, inner, layers = 64, 128, 2
    config = {
        "architectures": ["BertForQuestionAnswering"],
        "model_type": "bert",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "vocab_size": len(vocabulary.split()),
        "max_position_embeddings": 512,
    }
    shapes = {
        "bert.embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "bert.embeddings.position_embeddings.weight": (512, hidden),
        "bert.embeddings.token_type_embeddings.weight": (2, hidden),
        "qa_outputs.weight": (2, hidden),
        "qa_outputs.bias": (2,),
    }
    norms = ["bert.embeddings.LayerNorm"]
    for layer in range(layers):
        prefix = f"bert.encoder.layer.{layer}"
        norms += [f"{prefix}.attention.output.LayerNorm", f"{prefix}.output.LayerNorm"]
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= {f"{prefix}.{name}.weight": (hidden, hidden), f"{prefix}.{name}.bias": (hidden,)}
        for name, sizes in (("intermediate", (inner, hidden)), ("output", (hidden, inner))):
            shapes |= {f"{prefix}.{name}.dense.weight": sizes, f"{prefix}.{name}.dense.bias": sizes[:1]}
    random = np.random.RandomState(2021)
    state = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    for name, value in state.items():
        if not name.startswith("bert.embeddings"):
            value /= 10 if value.ndim == 1 else np.sqrt(value.shape[1])
    state["qa_outputs.weight"] *= 4
    for norm in norms:
        state |= {f"{norm}.weight": np.ones(hidden), f"{norm}.bias": np.zeros(hidden)}
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.astype(np.float32) for name, value in state.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text(vocabulary, encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 128}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def loaded(folder: Path) -> dict:
    """Model and tokenizer as arguments of `pipeline`."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    return {"model": model, "tokenizer": AutoTokenizer.from_pretrained(folder)}


def record(case: dict, models: dict[str, dict]) -> dict:
    """The case with `result` or `error`, and `differs` where the result is not to be repeated."""
    from transformers import pipeline

    try:
        answering = pipeline("question-answering", **models[case["model"]], device=-1, **case["setup"])
        outcome = {"result": answering(*filled(case["args"], TEXTS), **filled(case["kwargs"], TEXTS))}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of the tokenizer is no Exception
        outcome = {"error": type(error).__name__, "message": str(error)}
    differs = {"differs": DIFFERS[case["name"]]} if case["name"] in DIFFERS else {}
    return case | outcome | differs


def main() -> None:
    if not version("transformers").startswith("4."):
        sys.exit(f"transformers {version('transformers')} has no question-answering pipeline; needed: transformers 4")
    with tempfile.TemporaryDirectory() as folder:
        tiny_model(Path(folder))
        folders = {"tiny": folder, "dense": Path(os.environ["QALIB_SHARED"]) / "models" / DENSE}
        models = {name: loaded(folder) for name, folder in folders.items()}
        recorded = [record(case, models) for case in cases()]
    versions = {name: version(name) for name in ("transformers", "tokenizers", "torch", "numpy")}
    head = {"versions": {"python": platform.python_version()} | versions, "dense": DENSE, "texts": TEXTS}
    lines = ",\n".join(json.dumps(case) for case in recorded)
    text = json.dumps(head, indent=1)[:-2] + ',\n "cases": [\n' + lines + "\n]}\n"
    json.loads(text)
    (HERE / "pipeline_v4.json").write_text(text, encoding="ascii")


if __name__ == "__main__":
    main()
