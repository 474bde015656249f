import json
import sys

import nbformat
import pytest

from qalib.report import execution
from qalib.utils.errors import InputError


@pytest.fixture
def notebook(tmp_path):
    """A notebook that prints its interpreter."""
    node = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import sys; print(sys.executable)")])
    node.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(node, tmp_path / "n.ipynb")
    return tmp_path / "n.ipynb"


def test_notebooks_run_in_this_interpreter(notebook, tmp_path, monkeypatch):
    """Even if Jupyter finds another kernel of that name first, as of an environment that was removed."""
    stale = tmp_path / "kernels" / "python3"
    stale.mkdir(parents=True)
    command = ["/opt/removed/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (stale / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    execution.execute(notebook, tmp_path / "out.ipynb", {})
    (cell,) = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    assert cell.outputs[0].text.strip() == sys.executable


def test_a_notebook_that_git_lfs_has_not_fetched(notebook):
    notebook.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 3\n")
    with pytest.raises(InputError, match="n.ipynb: a Git LFS pointer"):
        execution.check_parameters(notebook, {})
