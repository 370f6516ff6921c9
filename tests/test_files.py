"""Files and folders are complete under their final names, or absent, however the writer ends."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import files

ROOT = Path(__file__).parents[1]


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_sha256_is_that_of_all_bytes(tmp_path):
    content = os.urandom(3 * (1 << 20) + 17)
    (tmp_path / "file").write_bytes(content)
    assert files.sha256_of_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_json_is_written_for_people_and_read_back(tmp_path):
    content = {"name": "Łódź 東京", "values": [1, 2.5, None, True]}
    files.write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "Łódź 東京" in text and text.endswith("}\n") and text.count("\n") > 5
    assert json.loads(text) == content == files.read_json(tmp_path / "a.json")


def test_writer_killed_at_any_instant_leaves_a_whole_file(tmp_path):
    """SIGKILL during endless rewriting: the file is one of the two contents, never a mixture or a part."""
    program = (
        "import files, itertools, sys\n"
        "for letter in itertools.cycle('ab'):\n"
        "    files.write_text(sys.argv[1], letter * 4_000_000)\n"
    )
    path = tmp_path / "file"
    for delay in (0.01, 0.05, 0.09, 0.13, 0.17):
        writer = subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=ROOT)
        while not path.exists():
            assert writer.poll() is None
            time.sleep(0.005)
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        letters = set(path.read_text())
        assert path.stat().st_size == 4_000_000 and letters in ({"a"}, {"b"})
    files.remove_leftovers(tmp_path)
    assert names_in(tmp_path) == ["file"]


def test_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path, monkeypatch):
    files.write_text(tmp_path / "file", "old")

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        files.write_text(tmp_path / "file", "new")
    assert names_in(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "old"


def test_folder_is_flushed_to_its_last_entry_before_it_gets_its_name(tmp_path, monkeypatch):
    """Every file and folder inside is fsynced, then the rename happens, then the folder above is fsynced."""
    temporary = files.temporary_path(tmp_path / "result")
    (temporary / "inner").mkdir(parents=True)
    (temporary / "a").write_text("a")
    (temporary / "inner" / "b").write_text("b")
    inodes = {entry.stat().st_ino for entry in [temporary, *temporary.rglob("*")]}
    events, fsync, replace = [], os.fsync, os.replace

    def record_fsync(descriptor):
        events.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def record_replace(source, target):
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    files.publish(temporary, tmp_path / "result")
    rename = events.index("rename")
    assert inodes == set(events[:rename])
    assert tmp_path.stat().st_ino in events[rename:]
    assert (tmp_path / "result" / "inner" / "b").read_text() == "b" and names_in(tmp_path) == ["result"]


@pytest.mark.parametrize("failing", [1, 2])
def test_replaced_folder_is_kept_until_the_new_one_is_flushed_and_named(failing, tmp_path, monkeypatch):
    """A failure at any step, a signal's too, leaves the old one whole under its name."""
    path, temporary = tmp_path / "result", files.temporary_path(tmp_path / "result")
    for folder, content in ((path, "old"), (temporary, "new")):
        folder.mkdir()
        (folder / "file").write_text(content)
    replace, calls = os.replace, []

    class Killed(BaseException):
        pass

    def be_killed(*arguments):
        calls.append(arguments)
        if len(calls) == failing:
            raise Killed
        replace(*arguments)

    def disk_fails(*_):
        assert (path / "file").read_text() == "old"
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", disk_fails)
        with pytest.raises(OSError, match="no space"):
            files.replace_folder(temporary, path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", be_killed)
        with pytest.raises(Killed):
            files.replace_folder(temporary, path)
    assert (path / "file").read_text() == "old"
    files.replace_folder(temporary, path)
    assert (path / "file").read_text() == "new" and names_in(tmp_path) == ["result"]


def test_folder_loses_its_name_before_its_content(tmp_path, monkeypatch):
    """A kill in the middle of a deletion leaves nothing under the name; the rest goes with the leftovers."""
    (tmp_path / "doomed").mkdir()
    (tmp_path / "doomed" / "file").write_text("x")

    class Killed(BaseException):
        pass

    def be_killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", be_killed)
        with pytest.raises(Killed):
            files.remove_folder(tmp_path / "doomed")
    assert not (tmp_path / "doomed").exists() and len(names_in(tmp_path)) == 1
    files.remove_leftovers(tmp_path)
    assert names_in(tmp_path) == []
    files.remove_folder(tmp_path / "doomed")


def test_leftovers_are_all_that_is_removed(tmp_path):
    kept = ["a.tmp", ".hidden", "model.deleted", ".lock", ".mine.tmp", ".12.deleted"]
    for name in [*kept, ".a.12.tmp", ".b.7.deleted"]:
        (tmp_path / name).write_text("x")
    (tmp_path / ".folder.3.tmp").mkdir()
    (tmp_path / ".folder.3.tmp" / "x").write_text("x")
    files.remove_leftovers(tmp_path)
    assert names_in(tmp_path) == sorted(kept)


def test_locked_folder_is_refused_to_others_until_its_holder_is_killed(tmp_path):
    program = (
        "import files, sys, time\n"
        "with files.lock_folder(sys.argv[1]):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match=rf"in use by process {holder.pid}\b"):
            files.lock_folder(tmp_path).__enter__()
    finally:
        holder.kill()
        holder.communicate()
    with files.lock_folder(tmp_path):
        pass
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_used_with_a_warning(number, tmp_path, monkeypatch, capsys):
    """As Lustre without its option flock, and NFS without its lock daemon."""

    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with files.lock_folder(tmp_path):
        assert capsys.readouterr().err == (
            f"warning: {tmp_path}: this file system has no locks ({os.strerror(number)}); nothing but "
            "this run may use the folder now\n"
        )
    assert names_in(tmp_path) == []


def test_lock_file_that_lost_its_name_locks_nothing(tmp_path, monkeypatch):
    """A second process opens the lock file just before the holder removes it: it locks a file anew."""
    holder = files.lock_folder(tmp_path)
    holder.__enter__()
    flock = fcntl.flock

    def holder_leaves_first(*arguments):
        holder.__exit__(None, None, None)
        monkeypatch.undo()
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", holder_leaves_first)
    with files.lock_folder(tmp_path), pytest.raises(BlockingIOError):
        files.lock_folder(tmp_path).__enter__()


def test_who_waits_for_a_folder_gets_it_when_its_holder_leaves(tmp_path):
    events = []

    def wait_for_it():
        with files.lock_folder(tmp_path, wait=True):
            events.append("second")

    with files.lock_folder(tmp_path):
        second = threading.Thread(target=wait_for_it)
        second.start()
        second.join(timeout=0.2)
        assert second.is_alive()
        events.append("first")
    second.join(timeout=20)
    assert events == ["first", "second"] and names_in(tmp_path) == []
