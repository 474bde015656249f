"""Downloads by the hub's own client, from a small stand-in for the hub on loopback."""

import hashlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from builders import write_shards
from conftest import write_2021

from qalib.model import checkpoint
from qalib.model.formats import PICKLED, SAFETENSORS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PATH = re.compile(r"/(api/models/)?(\w+/\w+)(?:/(\w+)/(\w+))?(?:/([\w.-]+))?(?:\?.*)?$")
REFUSED = {
    "org/private": (401, {"X-Error-Message": "Invalid username or password."}),
    "org/expired": (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
    "org/gated": (403, {"X-Error-Code": "GatedRepo"}),
    "org/absent": (404, {"X-Error-Code": "RepoNotFound"}),
}
CUT_SHORT = ("org/cut", "org/reset", "org/mended")  # the weights, once; org/mended sends them when asked again
# `qalib sparsity` of several models through the entry point of one process; a line of JSON each.
COMMANDS = """
import contextlib, io, json, sys
from qalib import cli
for model in json.loads(sys.argv[1]):
    sys.argv[1:] = ["sparsity", "--json", "--model", model]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


class StandIn(ThreadingHTTPServer):
    """Serves `folder` as any repository but those of REFUSED; `asked` collects what was asked for."""

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder, self.asked = folder, []
        self.endpoint = f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append((self.command, self.path))
        asked = PATH.match(self.path)
        api, repository, what, revision, file = asked.groups() if asked else [None] * 5
        if not repository:  # the client asks of more than repositories
            self.reply(404)
        elif repository in REFUSED:
            self.reply(*REFUSED[repository])
        elif revision not in (None, "main", COMMIT):
            self.reply(404, {"X-Error-Code": "RevisionNotFound"})
        elif api:
            files = sorted(self.server.folder.iterdir())
            listed = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": self.etag(f)} for f in files]
            about = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": f.name} for f in files]}
            self.reply(200, {}, json.dumps(listed if what == "tree" else about).encode())
        else:
            self.file(repository, self.server.folder / file)

    do_HEAD = do_GET

    def file(self, repository, path):
        content, headers = path.read_bytes(), {"X-Repo-Commit": COMMIT, "ETag": f'"{self.etag(path)}"'}
        cut = self.command == "GET" and repository in CUT_SHORT and path.suffix == ".bin"
        again = self.server.asked.count((self.command, self.path)) > 1
        if cut and not again:
            self.reply(200, headers, content[: len(content) // 2], len(content))
            self.close_connection = True
            if repository == "org/reset":  # no goodbye
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
        elif cut and repository != "org/mended":
            self.reply(500)
        else:
            self.reply(200, headers, content)

    def reply(self, status, headers=None, content=b"", length=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(length or len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def etag(self, path):
        return hashlib.sha1(path.read_bytes()).hexdigest()

    def log_message(self, *_):
        pass


def qalib(models, endpoint, cache, offline="0"):
    """What `qalib sparsity` of each came to: exit code, standard output and standard error."""
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_OFFLINE": offline,
                                "HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # fmt: skip
    command = [sys.executable, "-c", COMMANDS, json.dumps(models)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_loaded(result):
    code, output, error = result
    assert code == 0, error
    found = json.loads(output)
    assert (found["format"], found["revision"]) == ("2021", COMMIT)
    assert found["heads_called_removed_per_layer"] == [2, 4]


def check_refused(result, *messages):
    code, output, error = result
    lines = [line for line in error.splitlines() if line.startswith("qalib: ")]
    assert (code, output, len(lines)) == (2, "", 1) and "Traceback" not in error
    for message in messages:
        assert message in lines[0]


@pytest.fixture(scope="module")
def folder(packed_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    write_2021(checkpoint.load(packed_folder), {0: [1, 2], 1: [0, 1, 2, 3]}, folder)
    (folder / "tf_model.h5").write_bytes(b"not for us")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def hub(folder):
    server = StandIn(folder)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def online(hub, cache):
    """What came of loading these, in this order, by the name of the repository."""
    models = [f"org/tiny@{COMMIT}", "org/tiny", "org/tiny@v9", *REFUSED, *CUT_SHORT]
    return dict(zip(models, qalib(models, hub.endpoint, cache), strict=True))


def test_by_revision_and_from_the_cache_the_second_time(online, hub, folder):
    check_loaded(online[f"org/tiny@{COMMIT}"])
    check_loaded(online["org/tiny"])
    files = [
        path.rpartition("/")[2] for command, path in hub.asked if command == "GET" and "/org/tiny/resolve/" in path
    ]
    assert sorted(files) == sorted({path.name for path in folder.iterdir()} - {"tf_model.h5"})


@pytest.mark.parametrize(
    "model, messages",
    [
        ("org/tiny@v9", ["has the repository but no such revision: check what follows the @"]),
        ("org/private", ["no such repository, or won't show it to you (401 Invalid username", "or log in with"]),
        ("org/expired", ["won't show it to you (401 Invalid credentials", "or log in with"]),
        ("org/absent", ["no such repository, or won't show it to you (404): check the name"]),
        ("org/gated", ["to those who agree to its terms: agree on its page there, then log in"]),
        ("org/cut", ["its download from http", "500", "try again, or name a folder"]),
        ("org/reset", ["its download from http", "ReadError", "try again, or name a folder"]),
    ],
)
def test_what_the_hub_refuses_or_cuts_short(online, hub, cache, model, messages):
    check_refused(online[model], f"{model}: no such folder, and ", hub.endpoint, *messages)
    snapshots = cache / "hub" / f"models--{model.partition('@')[0].replace('/', '--')}" / "snapshots"
    assert "tiny" in model or not list(snapshots.rglob("*.bin"))


@pytest.mark.parametrize("name", [SAFETENSORS, PICKLED])
def test_shards_are_fetched_with_their_index(dense_folder, tmp_path, name):
    source = tmp_path / "source"
    shutil.copytree(dense_folder, source, ignore=shutil.ignore_patterns(SAFETENSORS))
    write_shards(source, checkpoint.load(dense_folder).model.state_dict(), name)
    expected = {path.name for path in source.iterdir()}
    if name == SAFETENSORS:
        (source / PICKLED).write_bytes(b"not needed")
    server = StandIn(source)
    Thread(target=server.serve_forever, daemon=True).start()
    ((code, output, error),) = qalib(["org/shards"], server.endpoint, tmp_path / "cache")
    server.shutdown()
    server.server_close()
    assert code == 0, error
    assert json.loads(output)["format"] == "transformers"
    assert {path.rpartition("/")[2] for command, path in server.asked if "/resolve/" in path} == expected


def test_a_download_that_was_cut_short_goes_on_where_it_stopped(online):
    check_loaded(online["org/mended"])


@pytest.mark.parametrize(
    "offline, tried, there, absent",
    [
        ("1", "HF_HUB_OFFLINE is set", [f"org/tiny@{COMMIT}", "org/tiny"], ["org/other", "org/cut"]),
        ("0", "http://127.0.0.1:{port}: ", [f"org/tiny@{COMMIT}"], ["org/other"]),  # tried again for seconds
    ],
)
def test_without_the_hub_only_the_cache_is_left(online, cache, offline, tried, there, absent):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        models = [*there, *absent]
        found = dict(zip(models, qalib(models, f"http://127.0.0.1:{port}", cache, offline), strict=True))
    for model in there:
        check_loaded(found[model])
    for model in absent:
        check_refused(found[model], f"{model}: no such folder, and the hub cannot be reached", tried.format(port=port),
                      f"its cache, {cache / 'hub'}, does not have all of it", "or name a folder")  # fmt: skip
