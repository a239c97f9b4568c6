"""Headers of GGUF files: the gguf package is the oracle, and no file can do more than be refused."""

import os
import struct
import tracemalloc

import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_jax.errors import UserError
from fewshot_jax.models.gguf.file import is_gguf, read_file
from fewshot_jax.models.gguf.stored_tensor import read_tensor
from tests.models.gguf.tiny_gguf import write

STRING, ARRAY, UINT32 = GGUFValueType.STRING, GGUFValueType.ARRAY, GGUFValueType.UINT32
METADATA = {
    "a.flag": True,
    "a.count": 7,
    "a.number": 1e-5,
    "a.text": "Ärger",
    "a.texts": ["one", "", "drei ▁"],
    "a.integers": [1, -2, 3],
    "a.numbers": [0.5, -1.25],
    "general.alignment": 64,
}
TENSORS = {
    "matrix": np.arange(64, dtype=np.float32).reshape(2, 32),
    "half": np.ones(3, np.float16),
    "scales": np.arange(64, dtype=np.float32).reshape(2, 32),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A file with every kind of value."""
    return write(
        tmp_path_factory.mktemp("sound") / "model.gguf",
        "llama",
        METADATA,
        TENSORS,
        kinds={"matrix": "Q8_0", "scales": "BF16"},
    )


def string(text):
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def pair(key, kind, raw):
    return string(key) + struct.pack("<I", kind) + raw


def info(name, shape, kind=0, offset=0):
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file_of(pairs=(), infos=(), data=b"\0" * 4096, *, version=3, counts=None):
    """A file by its parts; ``counts``: what it says of the numbers of tensors and of pairs."""
    tensors, values = counts or (len(infos), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, values) + b"".join(pairs) + b"".join(infos)
    return head + b"\0" * (-len(head) % 32) + data


def test_the_gguf_package_reads_the_same(sound):
    ours, theirs = read_file(sound), GGUFReader(sound)
    own = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert ours.metadata.keys() == own.keys()
    for key, value in own.items():
        found = ours.metadata[key]
        if isinstance(value, float):
            found, value = np.float32(found), np.float32(value)
        assert (found.tolist() if isinstance(found, np.ndarray) else found) == value
    assert ours.metadata["a.number"] == 1e-5, "the decimal that was written"
    assert {one.name for one in theirs.tensors} == ours.tensors.keys()
    for one in theirs.tensors:
        tensor = ours.tensors[one.name]
        assert (tensor.kind, tensor.shape) == (one.tensor_type.name, tuple(one.shape[::-1].tolist()))
        assert (tensor.start, tensor.stop - tensor.start) == (one.data_offset, one.n_bytes)
    np.testing.assert_array_equal(read_tensor(ours.tensors["half"]), TENSORS["half"])


def test_every_truncation_is_refused(sound, tmp_path):
    raw = sound.read_bytes()
    end = max(tensor.stop for tensor in read_file(sound).tensors.values())
    for size in range(0, end):
        (tmp_path / "a.gguf").write_bytes(raw[:size])
        with pytest.raises(UserError, match=r"^.*a.gguf: .*again"):
            read_file(tmp_path / "a.gguf")


def outcome(path):
    """Read a file and all of its tensors, or be refused with one short line."""
    try:
        for tensor in read_file(path).tensors.values():
            read_tensor(tensor)
    except UserError as error:
        message = str(error)
        assert message.startswith(str(path)) and "\n" not in message and len(message) < len(str(path)) + 400
        assert message.encode()
        return "refused"
    return "read"


def test_a_flipped_bit_is_read_or_refused(sound, tmp_path):
    raw, path, found = sound.read_bytes(), tmp_path / "a.gguf", set()
    for bit in range(0, 8 * len(raw), 3):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        found.add(outcome(path))
    assert found == {"read", "refused"}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_damage_is_read_or_refused(sound, tmp_path_factory, data):
    raw = bytearray(sound.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(raw) - 1))
        raw[start : start + data.draw(st.integers(0, 12))] = data.draw(st.binary(max_size=12))
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(raw)
    outcome(path)


HUGE = 2**60
BAD = {
    "empty": (b"", "not a GGUF file, or truncated"),
    "another format": (b"PK\3\4" + b"\0" * 99, "not a GGUF file"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer.*git lfs pull"),
    "version 1": (file_of(version=1), "version 1 of the format is not supported, only 2 and 3"),
    "version 4": (file_of(version=4), "version 4 of the format"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "too many values": (file_of(counts=(0, HUGE)), f"says that {HUGE} metadata values follow"),
    "too many tensors": (file_of(counts=(HUGE, 0)), f"says that {HUGE} tensors follow"),
    "too long a key": (file_of([struct.pack("<Q", HUGE)]), "its header does not end"),
    "too long a string": (file_of([pair("a", STRING, struct.pack("<Q", HUGE))]), "its header does not end"),
    "too many strings": (file_of([pair("a", ARRAY, struct.pack("<IQ", STRING, HUGE))]), f"{HUGE} strings follow"),
    "too many numbers": (file_of([pair("a", ARRAY, struct.pack("<IQ", UINT32, HUGE))]), f"{HUGE} numbers follow"),
    "array of arrays": (file_of([pair("a", ARRAY, struct.pack("<IQ", ARRAY, 1))]), "'a': an array of an unknown type"),
    "unknown type of value": (file_of([pair("a", 99, b"")]), "metadata 'a': unknown type of value 99"),
    "key twice": (file_of([pair("a", UINT32, b"\0" * 4)] * 2), "the metadata has 'a' twice"),
    "key that is not UTF-8": (file_of([pair(b"\xff", UINT32, b"\0" * 4)]), "a key of the metadata is not UTF-8"),
    "string that is not UTF-8": (file_of([pair("a", STRING, string(b"\xff"))]), "metadata 'a' is not UTF-8"),
    "tensor twice": (file_of(infos=[info("w", [2]), info("w", [2], offset=32)]), "holds tensor 'w' twice"),
    "overlap": (file_of(infos=[info("v", [9]), info("w", [2], offset=32)]), "tensors 'v' and 'w' overlap"),
    "not aligned": (file_of(infos=[info("w", [2], offset=4)]), "tensor 'w' is not aligned to 32 bytes"),
    "behind the file": (file_of(infos=[info("w", [2000])]), "tensor 'w' ends behind the file"),
    "offset behind the file": (file_of(infos=[info("w", [2], offset=2**63)]), "tensor 'w' ends behind the file"),
    "huge shape": (file_of(infos=[info("w", [2**63, 2**63])]), "tensor 'w' ends behind the file"),
    "too many axes": (file_of(infos=[info("w", [1] * 5)]), "tensor 'w' has 5 axes"),
    "huge number of axes": (file_of(infos=[string("w") + struct.pack("<I", 2**32 - 1)]), "has 4294967295 axes"),
    "unknown quantisation": (
        file_of(infos=[info("w", [32], kind=999)]),
        "of an unknown type .999.*pip install -U gguf",
    ),
    "removed quantisation": (file_of(infos=[info("w", [32], kind=4)]), "of an unknown type .4."),
    "quantisation that is only computed with": (file_of(infos=[info("w", [32], kind=9)]), "quantised as Q8_1, which"),
    "part of a block": (file_of(infos=[info("w", [33], kind=8)]), "rows of 33 numbers, no multiple of Q8_0's 32"),
    "alignment 3": (
        file_of([pair("general.alignment", UINT32, struct.pack("<I", 3))]),
        "alignment=3 is no power of two",
    ),
    "alignment 0": (file_of([pair("general.alignment", UINT32, b"\0" * 4)]), "alignment=0 is no power of two"),
    "alignment that is a string": (
        file_of([pair("general.alignment", STRING, string("x"))]),
        "alignment='x' is no power",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_refused_at_once(what, tmp_path):
    raw, message = BAD[what]
    path = tmp_path / "a.gguf"
    path.write_bytes(raw)
    tracemalloc.start()
    with pytest.raises(UserError, match=f"^{path}: .*{message}"):
        read_file(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_path_without_a_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"a.gguf: no such file"):
        read_file(tmp_path / "a.gguf")
    (tmp_path / "b.gguf").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"b.gguf: links to a file that is missing"):
        read_file(tmp_path / "b.gguf")
    os.mkfifo(tmp_path / "c.gguf")
    with pytest.raises(UserError, match=r"c.gguf: not a regular file"):
        read_file(tmp_path / "c.gguf")


def test_a_directory_is_no_gguf_file(tmp_path):
    (tmp_path / "a.gguf").mkdir()
    assert not is_gguf(tmp_path / "a.gguf") and is_gguf(tmp_path / "b.GGUF") and not is_gguf(tmp_path / "a.bin")


def test_the_parts_of_a_model_are_read_together(sound, tmp_path):
    metadata = METADATA | {"general.alignment": None}  # which the gguf package writes into the first part alone
    write(tmp_path / "a.gguf", "llama", metadata, TENSORS, split_max_tensors=1)
    first = tmp_path / "a-00001-of-00003.gguf"
    whole, parts = read_file(sound), read_file(first)
    assert parts.tensors.keys() == whole.tensors.keys()
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(read_tensor(parts.tensors[name]), array)
    second = tmp_path / "a-00002-of-00003.gguf"
    with pytest.raises(UserError, match=r"give the first part, a-00001-of-00003.gguf"):
        read_file(second)
    first.rename(tmp_path / "b.gguf")
    with pytest.raises(UserError, match=r"b.gguf: one of 3 parts of a model, and its name"):
        read_file(tmp_path / "b.gguf")
    (tmp_path / "b.gguf").rename(first)
    second.unlink()
    with pytest.raises(UserError, match=r"a-00002-of-00003.gguf: no such file"):
        read_file(first)
    second.write_bytes((tmp_path / "a-00003-of-00003.gguf").read_bytes())
    with pytest.raises(UserError, match=r"a-00003-of-00003.gguf: tensor '.*' is in two parts"):
        read_file(first)
