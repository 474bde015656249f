import json
import re
import shutil

import nbformat
import pytest
from reliability.determinism import TIMED, TIMES

from qalib.model import checkpoint
from qalib.report import build, card, execution, front, results
from qalib.utils import files
from qalib.utils.errors import InputError, ReportError
from qalib.utils.files import read_json, write_json

QUICK = {"batch": 1, "length": 16, "repeats": 1, "evaluated": 3, "evaluation_repeats": 1, "timed_questions": 2,
         "densities": [0.5, 1.0]}  # fmt: skip
NAMES = [path.stem for path in sorted(build.NOTEBOOKS.glob("[0-9]*.ipynb"))]


@pytest.fixture(scope="module")
def made(packed_folder, asked_file, tmp_path_factory):
    """A report of the tiny model, made by the real notebooks, once."""
    out = tmp_path_factory.mktemp("reports") / "tiny"
    return build.run(
        str(packed_folder), str(asked_file), out, "cpu", parameters=QUICK | {"audited": str(packed_folder)}
    )


def notebook(path, *cells, parameters="out = ''"):
    node = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    )
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    node.cells = [nbformat.v4.new_markdown_cell("# A title"), first, *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(node, path)
    return path


def test_everything_is_there(made):
    found = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    assert {f"notebooks/{name}.html" for name in NAMES} <= found
    figures = [
        "heads",
        "density",
        "patterns",
        "parameters",
        "published",
        "speedup",
        "evaluation_time",
        "by_question_word",
    ]
    assert {f"figures/{name}.svg" for name in figures} | {"figures/density_chart.html"} <= found
    tables = ["matrices", "heads", "file_sizes", "multiply_adds", "worst_answers", "benchmark", "evaluation_time"]
    assert {f"tables/{name}.csv" for name in tables} <= found
    assert {
        "index.html",
        "results.json",
        "manifest.json",
        "card/README.md",
        *(f"card/{n}" for n in card.FIGURES),
    } <= found
    assert not [name for name in found if name.endswith(".ipynb") or "state" in name]
    assert [path.name for path in made.parent.iterdir() if "lock" not in path.name] == ["tiny"]


def test_the_card_says_what_the_results_say(made, asked_file, packed_folder):
    numbers, text = results.read(made), (made / "card" / "README.md").read_text()
    assert f"**{numbers['f1'].value:.2f} %**" in text and f"{numbers['questions'].value} questions" in text
    assert numbers["questions"].value == 8 and numbers["data_description"].value == "eight.json"
    assert {n.source for n in numbers.values()} == set(NAMES) - {"05_model_card", "06_movement_pruning"}
    images = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert images and all((made / "card" / name).exists() for name in images)
    assert "no CUDA device was used" in text


def test_scores_on_other_data_have_no_star_and_say_what_they_are_of(made):
    scope = "8 questions (eight.json)"
    assert f"This model, on {scope}" in (made / "card" / "README.md").read_text()
    index = (made / "index.html").read_text()
    assert f"F1 on {scope}" in index and "dense teacher's F1" not in index
    assert "stroke-dasharray" in (made / "figures" / "published.svg").read_text()  # a line at its density instead


def test_the_manifest_says_what_it_was_made_of(made, packed_folder):
    manifest = read_json(made / "manifest.json")
    assert (
        manifest["model"]["sha256"] == checkpoint.load(packed_folder).sha256
        and manifest["model"]["name"] == "tiny-sparse"
    )
    assert (
        manifest["data"]["questions"] == 8
        and manifest["device"] == "cpu"
        and QUICK.items() <= manifest["parameters"].items()
    )
    assert [entry["name"] for entry in manifest["notebooks"]] == NAMES and manifest["seed"] == 0
    assert manifest["notebooks"][1]["title"] == "What is left of the model"


def test_pages_fetch_nothing_and_links_lead_somewhere(made):
    for page in [made / "index.html", *(made / "notebooks").glob("*.html")]:
        text = page.read_text()
        assert not re.search(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?:https?:)?//', text), page.name
        for link in re.findall(r'(?:href|src)="([^"#:]+)"', text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
    assert '<details class="code"' in (made / "notebooks" / "02_sparsity_analysis.html").read_text()


def test_a_structural_twin_is_reported_without_scores(made, packed_folder, asked_file, tmp_path):
    folder, out = shutil.copytree(packed_folder, tmp_path / "twin"), shutil.copytree(made, tmp_path / "r")
    write_json(folder / "model_meta.json", {"twin_of": "org/<b>model", "structure": "heads as published"})
    of_scores = ["tables/example_answers.csv", "tables/worst_answers.csv", "figures/by_question_word.svg"]
    for name in [*of_scores, "figures/published.svg"]:
        (out / name).unlink()
    given = {"model": str(folder), "data": str(asked_file), "device": "cpu", "out": str(out)}
    for name in ("01_load_model", "03_squad_evaluation"):
        notebook = build.NOTEBOOKS / f"{name}.ipynb"
        declared = execution.check_parameters(notebook, {})
        execution.execute(notebook, tmp_path / f"{name}.ipynb", {k: v for k, v in given.items() if k in declared})
    numbers = results.read(out)
    for name in ("exact_match", "f1", "widget_answer", "widget_score"):
        assert numbers[name].value is None and numbers[name].note == "needs weights"
    assert numbers["windows"].value == 8 and (out / "figures" / "published.svg").exists()
    assert not any((out / name).exists() for name in of_scores)
    text = card.write(out).text
    assert "| **EM** | **needs weights** |" in text and "model-index" not in text
    assert "> **Made from a structural twin of org/&lt;b&gt;model**: heads as published." in text
    index = front.index(out, read_json(made / "manifest.json"))
    assert "Made from a structural twin of org/&lt;b&gt;model" in index and index.count(">needs weights</a>") >= 4


def test_questions_without_an_answer_are_reported(made, packed_folder, unanswerable_file, tmp_path):
    out = shutil.copytree(made, tmp_path / "r")
    given = {"model": str(packed_folder), "data": str(unanswerable_file), "device": "cpu", "out": str(out)}
    notebook = build.NOTEBOOKS / "03_squad_evaluation.ipynb"
    execution.execute(notebook, tmp_path / "03.ipynb", given | {"null_score_diff_threshold": -0.5})
    numbers = results.read(out)
    assert (numbers["HasAns_total"].value, numbers["NoAns_total"].value) == (8, 4)
    assert numbers["null_score_diff_threshold"].value == -0.5 and numbers["best_f1"].value >= numbers["f1"].value
    assert (out / "tables" / "by_answerable.csv").exists() and (out / "figures" / "by_answerable.svg").exists()
    assert "plausible_answers" in (out / "tables" / "worst_answers.csv").read_text().splitlines()[0]
    text = card.write(out).text
    assert "| EM and F1 on the 4 that have none (NoAns) |" in text and "by more than\n-0.5;" in text
    said = "not stated; if on SQuAD v1.1 alone, the model has seen no question without an answer"
    assert said in text and said in front.index(out, read_json(made / "manifest.json"))
    assert not (made / "tables" / "by_answerable.csv").exists()


def test_two_runs_differ_in_times_only(made, packed_folder, asked_file, tmp_path):
    again = build.run(
        str(packed_folder),
        str(asked_file),
        tmp_path / "again",
        "cpu",
        parameters=QUICK | {"audited": str(packed_folder)},
    )
    for folder in ("tables", "figures"):
        for path in (made / folder).iterdir():
            if path.name not in TIMED:
                assert path.read_bytes() == (again / folder / path.name).read_bytes(), path.name
    one, two = results.read(made), results.read(again)
    assert one.keys() == two.keys()
    different = {name for name in one if one[name] != two[name]}
    assert different <= set(TIMES)


def test_an_unknown_parameter_is_refused(packed_folder, asked_file, tmp_path):
    with pytest.raises(InputError, match="no notebook has a parameter 'epochs'; they have audited, batch, "):
        build.run(str(packed_folder), str(asked_file), tmp_path / "r", "cpu", parameters={"epochs": 3})
    path = notebook(tmp_path / "a.ipynb")
    with pytest.raises(InputError, match="a.ipynb: no parameter ouf; it has out"):
        execution.execute(path, tmp_path / "o" / "a.ipynb", {"ouf": "x"})
    assert not (tmp_path / "r").exists() and not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "cell, message",
    [
        ("1 / 0", r"cell 2 \(1 / 0\): ZeroDivisionError: division by zero"),
        ("import os; os._exit(1)", "Dead"),
        ("import time; time.sleep(60)", "[Tt]ime"),
    ],
)
def test_a_failure_is_named_and_the_partial_notebook_kept(tmp_path, cell, message):
    path, output = notebook(tmp_path / "bad.ipynb", cell, "print('after')"), tmp_path / "out" / "bad.ipynb"
    with pytest.raises(ReportError, match=f"bad.ipynb, .*{message}"):
        execution.execute(path, output, {}, timeout=5)
    assert [p.name for p in output.parent.iterdir()] == ["bad.FAILED.ipynb"]


def test_a_failed_report_leaves_the_earlier_one_and_goes_on(packed_folder, asked_file, tmp_path):
    out, flag = tmp_path / "r", tmp_path / "flag"
    count = f"with open({str(tmp_path / 'count')!r}, 'a') as file:\n    print('x', end='', file=file)"
    number = "from qalib import Results\nResults(out, '01').number('n', 1, '1', 'd')"
    first = notebook(tmp_path / "01.ipynb", count, number)
    second = notebook(
        tmp_path / "02.ipynb", f"assert Path({str(flag)!r}).exists()", parameters="from pathlib import Path\nout = ''"
    )
    out.mkdir()
    (out / "manifest.json").write_text('"earlier"')

    def run(**options):
        return build.run(str(packed_folder), str(asked_file), out, "cpu", notebooks=[first, second], **options)

    with pytest.raises(
        ReportError, match=r"02.ipynb, cell 3 \(assert Path.*\): AssertionError.*\.r\.draft/notebooks/02.FAILED.ipynb"
    ):
        run()
    assert (out / "manifest.json").read_text() == '"earlier"' and (tmp_path / "count").read_text() == "x"
    flag.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(front, "index", lambda draft, manifest: "")
        run()
    assert (tmp_path / "count").read_text() == "x"  # the first notebook was not run again
    assert json.loads((out / "manifest.json").read_text())["notebooks"][1]["name"] == "02"
    assert not list(out.rglob("*FAILED*"))


def test_only_a_report_is_replaced(packed_folder, asked_file, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already and is not a report"):
        build.run(str(packed_folder), str(asked_file), tmp_path, "cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_second_run_into_the_same_folder_is_refused(packed_folder, asked_file, tmp_path):
    import filelock

    with filelock.FileLock(tmp_path / ".r.lock"), pytest.raises(InputError, match="another run is writing this report"):
        build.run(str(packed_folder), str(asked_file), tmp_path / "r", "cpu")


def test_an_earlier_report_gets_its_name_back_after_a_kill(tmp_path):
    (tmp_path / ".r.old").mkdir()
    (tmp_path / ".r.old" / "manifest.json").write_text('"earlier"')
    for _ in range(2):
        files.restore_folder(tmp_path / "r")
        assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_default_names():
    assert build.default_name("bundled", "sample", None) == "bundled-sample"
    assert build.default_name("a/b@v1", "x/dev-v1.1.json", 500) == "b-v1-dev-v1.1-500"


def test_script_in_a_name_or_a_number_is_text(made, tmp_path):
    script = "<script>alert(1)</script>"
    folder, manifest = tmp_path / "r", read_json(made / "manifest.json")
    shutil.copytree(made, folder)
    numbers = read_json(folder / "results.json")
    numbers["numbers"][0] |= {"value": script, "definition": script}
    write_json(folder / "results.json", numbers)
    manifest["model"]["name"] = script
    page = front.index(folder, manifest)
    assert "<script" not in page and page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 4
