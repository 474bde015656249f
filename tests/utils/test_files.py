"""Files and folders that are links, pipes, devices, or not for this user; outputs that appear all at once or not."""

import os
import signal
import threading

import pytest

from qalib.utils import files, folders
from qalib.utils.errors import InputError


def test_a_pipe_or_a_folder_is_not_read_as_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: a regular file is required, found a pipe or a device"):
        files.read_json(tmp_path / "pipe")
    with pytest.raises(InputError, match="null: a regular file is required"):
        files.read_text("/dev/null")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder: Is a directory"):
        files.require_file(tmp_path / "folder")
    files.require_file(tmp_path / "absent")  # reading it reports it


def test_a_pipe_gets_the_text_and_stays(tmp_path):
    pipe, received = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()), daemon=True)
    reader.start()
    files.write_text(pipe, "answers")
    reader.join(10)
    assert received == ["answers"] and pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link.json"
    link.symlink_to("disk/answers.json")
    for text in ("one", "two"):  # where it leads to nothing yet, and to a file
        files.write_text(link, text)
        assert link.is_symlink() and (tmp_path / "disk" / "answers.json").read_text() == text


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_is_made_where_a_link_leads(tmp_path, exists):
    if exists:
        (tmp_path / "target").mkdir()
    link = tmp_path / "link"
    link.symlink_to("target")
    with files.atomic_folder(link) as draft:
        (draft / "file").write_text("x")
    assert link.is_symlink() and sorted(os.listdir(tmp_path)) == ["link", "target"]
    assert os.listdir(tmp_path / "target") == ["file"]


def test_a_folder_that_cannot_be_made_is_named_as_given(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as raised, files.atomic_folder(tmp_path / "file" / "out"):
        pass
    assert raised.value.filename == str(tmp_path / "file" / "out")
    with pytest.raises(InputError, match="out/p.json: cannot be written; .*file must be a folder that this user may"):
        folders.require_writable(tmp_path / "file" / "out" / "p.json")
    folders.require_writable(tmp_path / "new" / "out" / "p.json")
    folders.require_writable("/dev/null")


def test_a_link_that_leads_out_of_its_folder_is_not_copied(tmp_path):
    (tmp_path / "secret").write_text("secret")
    out, model = tmp_path / "out", tmp_path / "model"
    out.mkdir()
    model.mkdir()
    (model / "LICENSE").symlink_to("../secret")
    with pytest.raises(InputError, match="LICENSE: is a link to .*secret, outside its folder, and not copied"):
        folders.copy_into(model / "LICENSE", out)
    assert not os.listdir(out)
    (model / "MIT").write_text("mine")
    (model / "NOTICE").symlink_to("MIT")
    folders.copy_into(model / "NOTICE", out)
    cached = tmp_path / "models--a--b" / "snapshots" / "c0ffee"  # as the hub's cache
    cached.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    (tmp_path / "models--a--b" / "blobs" / "1").write_text("theirs")
    (cached / "LICENSE").symlink_to("../../blobs/1")
    folders.copy_into(cached / "LICENSE", out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {"NOTICE": "mine", "LICENSE": "theirs"}


def test_files_are_added_all_at_once_or_not_at_all(tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), folders.added_files(out) as draft:
        files.write_text(draft / "tables" / "one.csv", "1")
        raise KeyboardInterrupt
    assert not os.listdir(tmp_path)
    replace = os.replace

    def interrupted(*paths):
        signal.raise_signal(signal.SIGINT)
        replace(*paths)

    with pytest.raises(KeyboardInterrupt), folders.added_files(out) as draft:
        files.write_text(draft / "tables" / "one.csv", "1")
        files.write_text(draft / "two.csv", "2")
        monkeypatch.setattr(os, "replace", interrupted)
    assert sorted(os.listdir(out)) == ["tables", "two.csv"] and os.listdir(tmp_path) == ["out"]
