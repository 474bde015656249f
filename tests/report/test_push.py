"""To the hub: the folder read by the hub's own loaders, and its upload to a stand-in on loopback."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import huggingface_hub
import pytest
import yaml
from conftest import ROOT
from typer.testing import CliRunner

from qalib.cli import app
from qalib.model import checkpoint
from qalib.report import push
from qalib.utils.errors import InputError
from qalib.utils.paths import BUNDLED

REPORT = ROOT / "reports" / "bundled-dev-v1.1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What `qalib push --dry-run` writes of the bundled model's report."""
    out = tmp_path_factory.mktemp("push") / "out"
    command = ["push", str(REPORT), "me/model", "--dry-run", "--out", str(out)]
    assert CliRunner().invoke(app, command, catch_exceptions=False).stdout.strip() == str(out)
    return out


def test_the_folder_is_what_the_hubs_loaders_read(folder):
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert {score.metric_type for score in card.data.eval_results} == {"exact_match", "f1"}
    entries = huggingface_hub.parse_eval_result_entries(yaml.safe_load((folder / push.EVALUATION).read_text()))
    assert [(e.dataset_id, e.task_id) for e in entries] == [("rajpurkar/squad", name) for name in ("exact_match", "f1")]
    assert [e.value for e in entries] == [score.metric_value for score in card.data.eval_results]
    assert checkpoint.load(folder).sha256 == checkpoint.load().sha256
    names = {path.name for path in folder.iterdir()}
    assert {"NOTICE", "LICENSE", "results.json", "patterns.svg", "tokenizer.json"} <= names


def test_scores_of_v2_are_entered_as_such():
    score = huggingface_hub.EvalResult("question-answering", "squad_v2", "squad_v2", "f1", 70.5, metric_name="F1")
    data = huggingface_hub.ModelCardData(model_name="m", eval_results=[score])
    (entry,) = push._scores(huggingface_hub.ModelCard(f"---\n{data.to_yaml()}\n---\n"), "2026-01-01T00:00:00+00:00")
    assert entry["dataset"]["id"] == "rajpurkar/squad_v2" and "all of SQuAD v2.0 dev" in entry["notes"]


def test_what_is_refused(folder, packed_folder, tmp_path):
    with pytest.raises(InputError, match="not the model of the report .*name it with --model"):
        push.assemble(REPORT, tmp_path / "other", str(packed_folder))
    assert not (tmp_path / "other").exists()
    with pytest.raises(InputError, match=r"manifest.json: no such file"):
        push.assemble(BUNDLED, tmp_path / "none")
    with pytest.raises(InputError, match="cannot be an id on the hub"):
        push.check_name("a//b")
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / push.EVALUATION).write_text("- dataset: 1")
    with pytest.raises(InputError, match="squad.yaml: not evaluation results"):
        push.check(copy)
    (copy / "patterns.svg").unlink()
    with pytest.raises(InputError, match="README.md: links to files that are not in the folder: patterns.svg"):
        push.check(copy)
    (copy / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(InputError, match="README.md: not a card"):
        push.check(copy)


class StandIn(ThreadingHTTPServer):
    """A hub that takes what it is sent: `files` by their names in the repository, `made` what was made."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Taker)
        self.stored, self.files, self.made = {}, {}, []
        self.endpoint = f"http://127.0.0.1:{self.server_port}"


class Taker(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body, path = self.body(), self.path.partition("?")[0]
        if self.headers["Authorization"] != "Bearer hf_right":
            return self.reply({"error": "Invalid username or password."}, 401)
        match path.split("/")[-1], path.split("/")[-2]:
            case "create", _:
                self.server.made.append(json.loads(body))
                self.reply({"url": f"{self.server.endpoint}/me/model"})
            case "validate-yaml", _:
                self.reply({"errors": [], "warnings": []})
            case _, "preupload":
                files = json.loads(body)["files"]
                large = ".safetensors"
                self.reply({"files": [
                    {"path": f["path"], "shouldIgnore": False,
                     "uploadMode": "lfs" if f["path"].endswith(large) else "regular"} for f in files]})  # fmt: skip
            case "batch", _:
                self.reply({"transfer": "basic", "objects": [
                    {"oid": o["oid"], "size": o["size"], "actions": {
                        "upload": {"href": f"{self.server.endpoint}/store/{o['oid']}"}}}
                    for o in json.loads(body)["objects"]]})  # fmt: skip
            case _, "commit":
                for line in map(json.loads, body.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        self.server.files[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        self.server.files[value["path"]] = self.server.stored[value["oid"]]
                self.reply({"commitUrl": f"{self.server.endpoint}/me/model/commit/1", "commitOid": "1"})
            case _:
                self.reply({"error": path}, 404)

    def do_PUT(self):
        content = self.body()
        self.server.stored[hashlib.sha256(content).hexdigest()] = content
        self.reply({})

    def do_GET(self):
        self.reply({"id": "me/model", "sha": "0", "siblings": []})

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def reply(self, value, code=200):
        content = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub():
    server = StandIn()
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def pushed(hub, token, tmp_path):
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = [sys.executable, "-m", "qalib", "push", str(REPORT), "me/model", "--private"]
    return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)


def test_the_hub_gets_every_file(hub, folder, tmp_path):
    done = pushed(hub, "hf_right", tmp_path)
    assert done.returncode == 0 and done.stdout.strip() == f"{hub.endpoint}/me/model/commit/1", done.stderr
    sent = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert hub.files == sent and push.EVALUATION.as_posix() in sent
    assert hub.made[0]["name"] == "model" and hub.made[0]["visibility"] == "private"


def test_a_wrong_token_is_one_line(hub, tmp_path):
    done = pushed(hub, "hf_wrong", tmp_path)
    assert done.returncode == 2 and hub.files == {}
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("qalib: me/model: not uploaded (") and line.endswith("to log in: hf auth login")
