"""What is written is on disk before it has its name, and at every moment whole."""

import ast
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fewshot_jax
from fewshot_jax import atomic_write
from fewshot_jax.atomic_write import (
    append,
    atomic_directory,
    atomic_file,
    atomic_files,
    cannot_write,
    full_disk,
    naming,
)
from fewshot_jax.errors import UserError, WriteError
from fewshot_jax.runs.checksums import Checksums

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
PACKAGE = Path(fewshot_jax.__file__).parent


def contents(directory):
    return {str(one.relative_to(directory)): one.read_text() for one in directory.rglob("*") if one.is_file()}


def whole(directory, text):
    return {"a": text, "below/b": text} == contents(directory)


def fill(directory, text):
    (directory / "below").mkdir(parents=True, exist_ok=True)
    (directory / "a").write_text(text)
    (directory / "below" / "b").write_text(text)


@pytest.fixture
def calls(monkeypatch):
    """What is forced to disk and what is renamed, in order: the file of a call, and where a name goes."""
    seen = []
    fsync, replace, exchange = os.fsync, os.replace, atomic_write._exchange

    def synced(descriptor):
        seen.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def replaced(source, target):
        seen.append(("rename", Path(target)))
        replace(source, target)

    def exchanged(one, other):
        seen.append(("rename", Path(other)))
        return exchange(one, other)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(atomic_write, "_exchange", exchanged)
    return seen


def test_a_file_is_on_disk_before_its_name_and_its_name_is_on_disk_after(tmp_path, calls):
    with atomic_file(tmp_path / "file.png") as partial:
        partial.write_text("new")
    assert partial.suffix == ".png", "libraries tell the format by it"
    assert calls == [("fsync", partial), ("rename", tmp_path / "file.png"), ("fsync", tmp_path)]


@pytest.mark.parametrize("replace", [False, True])
def test_a_directory_is_on_disk_before_its_name_and_its_name_is_on_disk_after(tmp_path, calls, replace):
    if replace:
        fill(tmp_path / "made", "old")
    with atomic_directory(tmp_path / "made", replace=replace) as partial:
        fill(partial, "new")
    synced = {partial, partial / "a", partial / "below", partial / "below" / "b"}
    assert {path for name, path in calls[:4] if name == "fsync"} == synced
    assert calls[4:] == [("rename", tmp_path / "made"), ("fsync", tmp_path)]
    assert contents(tmp_path) == {"made/a": "new", "made/below/b": "new"}


def test_no_file_of_several_is_replaced_before_all_are_on_disk(tmp_path, calls):
    fill(tmp_path, "old")
    (tmp_path / "other").write_text("stays")
    with atomic_files(tmp_path, last="a") as partial:
        fill(partial, "new")
    renames = [path for name, path in calls if name == "rename"]
    assert renames == [tmp_path / "below" / "b", tmp_path / "a"]
    first = calls.index(("rename", renames[0]))
    assert {partial / "a", partial / "below" / "b"} <= {path for _, path in calls[:first]}
    assert {path for _, path in calls[first + 2 :]} == {tmp_path, tmp_path / "below"}
    assert contents(tmp_path) == {"a": "new", "below/b": "new", "other": "stays"}


def test_new_parents_are_on_disk_too(tmp_path, calls):
    with atomic_files(tmp_path / "one" / "two") as partial:
        (partial / "a").write_text("new")
    synced = [path for name, path in calls if name == "fsync"]
    assert (synced[0], synced[-1]) == (tmp_path, tmp_path / "one")


WAYS = {
    "file": lambda place: atomic_file(place / "a"),
    "directory": lambda place: atomic_directory(place, replace=True),
    "files": lambda place: atomic_files(place),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("failing", ["block", "fsync"])
def test_what_cannot_be_written_leaves_nothing_and_is_named(tmp_path, monkeypatch, way, failing):
    place = tmp_path / "place"
    place.mkdir()
    fill(place, "old")

    def full(descriptor=None):
        raise OSError(errno.ENOSPC, "No space left on device")

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    named = place / "a" if way == "file" else place

    def write():
        with WAYS[way](place) as partial:
            (partial if way == "file" else partial / "a").write_text("new")
            if failing == "block":
                full()

    with pytest.raises(OSError) as raised:
        write()
    assert raised.value.filename == str(named)
    assert whole(place, "old") and [one.name for one in tmp_path.iterdir()] == ["place"]
    assert sorted(one.name for one in place.iterdir()) == ["a", "below"]
    message = str(cannot_write(named, raised.value, "--output"))
    assert message == f"{named}: cannot write here (No space left on device); free disk space, or give another --output"


def test_a_mistake_in_the_block_stays_what_it_is(tmp_path):
    with pytest.raises(UserError, match="of the user"), atomic_file(tmp_path / "a"):
        raise UserError("of the user (os error 28)")
    with pytest.raises(FileNotFoundError) as raised, atomic_file(tmp_path / "a"):
        (tmp_path / "what is read").read_text()
    assert raised.value.filename == str(tmp_path / "what is read")
    assert not list(tmp_path.iterdir())


def test_a_copy_to_a_full_disk_names_the_place_of_the_copy(tmp_path):
    (tmp_path / "source").write_text("text")
    copy = tmp_path / "copy"

    def fill_the_disk():
        with full_disk(tmp_path, "--output"), atomic_file(copy) as partial:
            partial.symlink_to("/dev/full")
            shutil.copyfile(tmp_path / "source", partial)

    with pytest.raises(WriteError, match=rf"^{copy}: cannot write here \(No space left on device\); free disk space"):
        fill_the_disk()
    with pytest.raises(OSError) as raised, naming(copy):
        raise OSError(errno.EDQUOT, "Disk quota exceeded", str(tmp_path / "source"))
    assert raised.value.filename == str(copy)
    with pytest.raises(WriteError, match=f"^{copy}: cannot write"), full_disk(tmp_path, "--output"):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "source"), None, str(copy))


def test_the_errors_of_libraries_in_rust_are_errors_of_the_system(tmp_path):
    with pytest.raises(OSError) as raised, naming(tmp_path):
        raise Exception("File too large (os error 27)")
    assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(tmp_path))


def test_a_directory_with_files_is_replaced_only_where_that_is_asked_for(tmp_path):
    (tmp_path / "made").mkdir()
    fill(tmp_path / "made", "old")
    with pytest.raises(OSError, match="made"), atomic_directory(tmp_path / "made") as partial:
        fill(partial, "new")
    assert whole(tmp_path / "made", "old") and len(list(tmp_path.iterdir())) == 1


def test_without_an_exchange_the_old_directory_is_whole_until_the_new_one_has_its_name(tmp_path, monkeypatch):
    made, replace, seen = tmp_path / "made", os.replace, []
    made.mkdir()
    fill(made, "old")

    def looked(source, target):
        replace(source, target)
        seen.append([one for one in tmp_path.iterdir() if whole(one, "old")] + [made] * made.exists())

    monkeypatch.setattr(atomic_write, "_exchange", lambda one, other: False)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", looked)
        with atomic_directory(made, replace=True) as partial:
            fill(partial, "new")
    assert len(seen) == 2 and all(seen)
    assert whole(made, "new") and [one.name for one in tmp_path.iterdir()] == ["made"]

    def failing(source, target):
        if Path(target) == made and not str(source).endswith(".replaced"):
            raise OSError("the disk is gone")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="the disk is gone"), atomic_directory(made, replace=True) as partial:
        fill(partial, "newer")
    assert whole(made, "new") and [one.name for one in tmp_path.iterdir()] == ["made"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "folder").symlink_to("made")
    (tmp_path / "made").mkdir()
    with atomic_file(tmp_path / "link") as partial:
        partial.write_text("new")
    with atomic_directory(tmp_path / "folder") as partial:
        fill(partial, "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "folder").is_symlink() and whole(tmp_path / "made", "new")


def test_a_part_that_is_written_is_followed_by_the_rest():
    class Slow:
        def __init__(self):
            self.data = b""

        def write(self, data):
            self.data += data[:3]
            return len(data[:3])

    slow = Slow()
    append(slow, b"ten bytes.")
    assert slow.data == b"ten bytes."


def test_a_checkpoint_is_on_disk_before_its_checksums(tmp_path, calls):
    folder = tmp_path / "checkpoints" / "3"
    folder.mkdir(parents=True)
    fill(folder, "numbers")
    Checksums(tmp_path / "checkpoints").write(3)
    renamed = calls.index(("rename", tmp_path / "checksums" / "3.json"))
    wanted = {folder, folder / "a", folder / "below", folder / "below" / "b", folder.parent}
    assert wanted <= {path for name, path in calls[:renamed] if name == "fsync"}


WRITE = """
import os, sys
from pathlib import Path
from fewshot_jax import atomic_write

way, place = sys.argv[1], Path(sys.argv[2])
with {"file": atomic_write.atomic_file, "files": atomic_write.atomic_files}.get(way, atomic_write.atomic_directory)(
    place
) as partial:
    (partial if way == "file" else partial / "a").write_text("half")
    os._exit(9)
"""


@pytest.mark.parametrize("way", WAYS)
def test_what_a_killed_process_left_goes_an_hour_later_and_nothing_else(tmp_path, way, monkeypatch):
    place = tmp_path / "place.png"
    if way == "files":
        place.mkdir()
    inside = place if way == "files" else tmp_path
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", WRITE, way, str(place)], check=False).returncode == 9
    (left,) = inside.glob(".*.partial*")
    others = [inside / f".x{left.name}", inside / left.name.replace("partial", "part"), inside / "notes.partial"]
    mine = inside / re.sub(r"\d+-", f"{os.getpid()}-", left.name)
    for path in (*others, mine):
        path.write_text("another's")

    def write():
        kind = {"file": atomic_file, "files": atomic_files, "directory": atomic_directory}[way]
        with kind(place) as partial:
            (partial if way == "file" else partial / "a").write_text("new")

    write()
    assert left.exists(), "a process of another host may be writing it"
    later = time.time() + 3700
    monkeypatch.setattr(time, "time", lambda: later)
    if way == "directory":
        shutil.rmtree(place)
    write()
    assert not left.exists() and all(path.exists() for path in (*others, mine))


def test_old_files_of_a_switch_that_was_broken_off_stay_until_the_next_one_is_done(tmp_path, monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / f".{ended.pid}-0123abcd.partial"
    (left / "old").mkdir(parents=True)
    (left / "old" / "a").write_text("the only one")
    later = time.time() + 3700
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(ZeroDivisionError), atomic_files(tmp_path):
        raise ZeroDivisionError
    assert contents(tmp_path) == {f"{left.name}/old/a": "the only one"}
    with atomic_files(tmp_path) as partial:
        (partial / "a").write_text("new")
    assert contents(tmp_path) == {"a": "new"} and not left.exists()


KILLED = """
import json, os, shutil, sys
from pathlib import Path
from fewshot_jax import atomic_write

def texts(place):
    return {str(one.relative_to(place)): one.read_text() for one in sorted(place.rglob("*")) if one.is_file()}

def write(way, place, text):
    if way == "file":
        atomic_write.write_text(place / "a", text)
        return
    with atomic_write.atomic_directory(place, replace=True) as partial:
        (partial / "a").write_text(text)

def until(number, operation):
    calls = iter(range(99))
    def call(*arguments):
        if next(calls) == number:
            os.kill(os.getpid(), 9)
        return operation(*arguments)
    return call

found = []
for way in ("file", "directory"):
    for name in ("fsync", "replace", "open", "rmtree"):
        for number in range(3):
            place = Path(sys.argv[1]) / f"{way}_{name}_{number}" / "place"
            place.mkdir(parents=True)
            (place / "a").write_text("old")
            if (child := os.fork()) == 0:
                where = shutil if name == "rmtree" else os
                setattr(where, name, until(number, getattr(where, name)))
                write(way, place, "new")
                os._exit(0)
            os.waitpid(child, 0)
            found.append(texts(place).get("a"))
print(json.dumps(found))
"""


@pytest.mark.faults
def test_a_process_that_is_killed_leaves_the_old_or_the_new(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert len(found) == 24 and set(found) == {"old", "new"}


# What else opens a file to write, and why it may.
GIVEN = {
    ("cli/predict.py", "_given"),  # what stdin holds, in a temporary folder
    ("cli/predict.py", "_write_rows"),  # its caller gives a temporary name
    ("models/huggingface/writer.py", "_write"),  # so do its callers
    ("file_lock.py", "_acquire"),
    ("runs/interruption.py", "locked"),
    ("runs/metrics.py", "__init__"),  # appended to
    ("runs/tensorboard.py", "__init__"),  # appended to
    ("pretraining/pretrain.py", "_train"),  # by our own save_pretrained
    ("reporting/figures.py", "png"),  # into memory
    ("search/study_files.py", "acquire"),
    ("runs/checksums.py", "_move"),  # a rename alone
}
WRITING = {"write_text", "write_bytes", "savefig", "save_pretrained", "copyfile", "rename", "save_file", "to_csv"}


def writes(call):
    if not isinstance(call, ast.Call):
        return False
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "open":
        modes = [one.value for one in call.args if isinstance(one, ast.Constant)]
        return any(set(str(mode)) & set("wax+") and len(str(mode)) < 4 for mode in modes)
    return name in WRITING


def test_everything_is_written_by_an_atomic_write():
    """By its convention: what is written to is called ``partial``."""
    bare = set()
    for file in sorted(PACKAGE.rglob("*.py")):
        source, name = file.read_text(), file.relative_to(PACKAGE).as_posix()
        for function in ast.walk(ast.parse(source)):
            if not isinstance(function, ast.FunctionDef) or name == "atomic_write.py":
                continue
            for call in ast.walk(function):
                segment = ast.get_source_segment(source, call) if writes(call) else None
                if segment and "partial" not in segment and not segment.startswith("write_text("):
                    bare.add((name, function.name))
    assert bare <= GIVEN
    assert bare >= GIVEN, "the list names what is not there"
