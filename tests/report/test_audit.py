import shutil

import pytest

from qalib.qa import squad
from qalib.report import audit, claim, wordings
from qalib.utils.errors import InputError
from qalib.utils.files import write_json

CARD = """
the **linear** layers contains **39.1%** of the ... contains **70.0%** of the original weights **overall**
2 heads were removed on a total of 8 (25.0%)
| SQuAD1.1 | eval  | 11.1k     |
**Pytorch model file size**: `355M` (original BERT: `438M`)
| **F1** | **86.70** | **88.5** |
from transformers import pipeline
qa = pipeline(
    "question-answering", model="x")
"""


def test_claims_and_what_a_card_does_not_say():
    found = wordings.read(CARD)
    assert found["linear density"] == "39.1" and found["overall density"] == "70.0" and found["heads in total"] == "8"
    assert found["F1"] == "86.70" and found["original F1"] == "88.5" and found["file size"] == "355"
    assert found["usage example"] == "question-answering" and found["speedup"] is None and found["exact match"] is None


def test_the_shared_card_says_what_is_kept_as_facts(shared):
    assert audit.read(shared / "reference" / "model_card_0.32.md") == audit.read()


def test_what_is_kept_as_facts_are_the_claims_that_can_be_checked():
    assert audit.read().keys() == {*wordings.WORDINGS, wordings.NOT_UNDERSTOOD}
    assert wordings.WORDINGS.keys() == {each.name for each in audit.CLAIMS if not each.implied}
    assert wordings.CUES.keys() <= wordings.WORDINGS.keys()
    assert audit.read()["share of heads removed"] == "55.6"
    assert len({each.label for each in audit.CLAIMS}) == len(audit.CLAIMS)


def test_a_number_that_is_none_is_named(tmp_path):
    (tmp_path / "README.md").write_text(CARD.replace("39.1", "3.9.1"))
    with pytest.raises(InputError, match="README.md: linear density: '3.9.1' is not a number"):
        audit.read(tmp_path / "README.md")


def test_another_file_is_no_card(tmp_path):
    (tmp_path / "README.md").write_text("# hello")
    with pytest.raises(InputError, match="README.md: not a card of this family"):
        audit.read(tmp_path / "README.md")


@pytest.mark.parametrize(
    "text, value, holds",
    [("31.7", 31.65, True), ("31.7", 31.64, False), ("90.6K", 90569, True), ("11.1k", 11033, False), ("80", 80, True)],
)
def test_a_value_is_reproduced_if_it_prints_as_stated(text, value, holds):
    assert claim.prints_as(value, text) is holds


def test_verdicts(sparse, asked):
    stated = wordings.read(CARD)
    table = audit.audit(stated, sparse, asked, None, "cpu", 2, progress=False).set_index("claim")
    assert table.verdict["linear density"] == "reproduced" and table.ours["linear density"] == "39.06"
    assert table.verdict["overall density, of the model itself"] == "differs"
    assert table.verdict["heads removed"] == table.verdict["heads in total"] == "reproduced"
    assert table.ours["share of heads removed"] == "25" and table.verdict["share of heads removed"] == "reproduced"
    assert table.stated["saving of the file"] == "18.9" and table.verdict["saving of the file"] == "differs"
    assert table.verdict["speedup"] == table.verdict["exact match"] == "not stated"
    assert table.verdict["eval samples"] == "not checkable" and "needs all 10,570" in table.explanation["eval samples"]
    assert table.verdict["F1"] == "not checkable" and float(table.ours["F1"]) >= 0
    assert table.verdict["usage example"] == "differs"
    sparse.meta = {"twin_of": "x"}
    table = audit.audit(stated, sparse, asked, None, "cpu", 2, progress=False).set_index("claim")
    assert table.verdict["F1"] == "needs weights" and table.ours["F1"] == ""


def test_the_reported_model_is_audited_if_it_is_the_published_one_or_its_twin(packed_folder, tmp_path, monkeypatch):
    published = "bert-base-uncased-squad1.1-block-sparse-0.32-v1"
    shutil.copytree(packed_folder, tmp_path / published)
    write_json(shutil.copytree(packed_folder, tmp_path / "mine") / "model_meta.json", {"twin_of": f"x/{published}"})
    monkeypatch.setattr(audit.synthetic, "make_twin", lambda folder, published, vocabulary: packed_folder)
    for reported, taken in ((published, published), ("mine", "mine"), (packed_folder, "tiny-sparse")):
        with audit.checkpoint_to_audit(None, str(tmp_path / reported)) as loaded:
            assert loaded.name == taken
    with audit.checkpoint_to_audit(str(packed_folder), str(tmp_path / published)) as loaded:
        assert loaded.name == "tiny-sparse"
    with pytest.raises(InputError, match="the card is for another, and no twin of that can be made; name its"):
        with audit.checkpoint_to_audit(None, str(tmp_path / published), {"model": "madlag/another"}):
            pass


def test_window_counts_of_dev(sparse, shared):
    from qalib.model import checkpoint

    teacher = checkpoint.load(shared / "models" / "minilm-l6-squad-dense")
    dev = squad.load(str(shared / "squad" / "dev-v1.1.json"))
    evidence = claim.Evidence(audit.read(), teacher, dev, None, "cpu", 2, False)
    train, evaluated = (each.finding(evidence) for each in audit.CLAIMS if each.name.endswith("samples"))
    assert (train.verdict, evaluated.verdict, evaluated.ours) == ("not checkable", "reproduced", "11,111")
