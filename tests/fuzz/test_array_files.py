"""Numbers that come from elsewhere: masks, activations, binarised text, checkpoints, in every format."""

from __future__ import annotations

import copy
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuron_specialization.activations.counts import read_activations
from neuron_specialization.checkpoints.checkpoint import load_checkpoint
from neuron_specialization.directions import Direction
from neuron_specialization.errors import NeuronSpecializationError
from neuron_specialization.formats.data_bin import Sentences, read_parallel
from neuron_specialization.formats.reference_masks import import_activations, import_masks
from neuron_specialization.preprocessing.binarize import write_mmap
from neuron_specialization.storage.layer_masks import read_masks, write_masks
from neuron_specialization.storage.layer_tensors import write_layers
from neuron_specialization.storage.safe_loading import check_intact
from tests.fakes import checkpoints as fake
from tests.fuzz import harness
from tests.fuzz.harness import Edits, Grafts, edited, edits, fuzz, grafted, grafts, reads_or_explains

LAYERS = {"encoder.layers.0": np.array([True, False] * 4 + [True]), "decoder.layers.0": np.ones(9, np.bool_)}
COUNTS = {name: np.arange(9, dtype=np.int64) for name in LAYERS}


def saved(write: Callable[[Path], object], folder: Path) -> bytes:
    write(folder / "seed")
    data = (folder / "seed").read_bytes()
    (folder / "seed").unlink()
    return data


# ---- ours: safetensors ----


@fuzz
@given(changes=edits, kind=st.sampled_from(["masks", "packed masks", "activations"]))
def test_mask_and_activation_files(folder: Path, changes: Edits, kind: str) -> None:
    path = folder / "de-en.safetensors"
    if kind == "activations":
        write_layers(path, COUNTS, {"direction": "de-en"})
    else:
        write_masks(path, LAYERS, {"direction": "de-en"}, packed=kind != "masks")
    path.write_bytes(edited(path.read_bytes(), changes))
    reader = read_activations if kind == "activations" else read_masks
    found = reads_or_explains(kind, folder, lambda: reader(path))
    assert changes or found is not None


numbers = st.one_of(
    st.sampled_from([0, 1, 9, 72, -1, 2**31, 2**40, 2**63 - 1, 2**64, 10**30]), st.integers(0, 80)
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["BOOL", "U8", "I64", "F32", "F8_E8M0", "X", "", 1, None]),
        "shape": st.one_of(st.lists(numbers, max_size=3), numbers),
        "data_offsets": st.one_of(st.tuples(numbers, numbers), st.lists(numbers, max_size=3)),
    }
)
names = st.sampled_from(["encoder.layers.0", "decoder.layers.0", "encoder.layers.9999999999", "", "../x"])
metadata = st.dictionaries(
    st.sampled_from(["packed", "d_ff", "direction", "x"]),
    st.sampled_from(
        ["true", "9", '{"encoder.layers.0": 1e999}', "[" * 3000, '{"encoder.layers.0": -8}', "\x00"]
    ),
)


HEADER = {
    "__metadata__": {"direction": "de-en", "packed": "true", "d_ff": "72"},
    "encoder.layers.0": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]},
    "decoder.layers.0": {"dtype": "U8", "shape": [9], "data_offsets": [9, 18]},
}


@fuzz
@given(changes=grafts, change=st.booleans())
def test_safetensors_descriptions(folder: Path, changes: Grafts, change: bool) -> None:
    header = json.dumps(grafted(copy.deepcopy(HEADER), changes) if change else HEADER).encode()
    path = folder / "de-en.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\x01" * 18)
    found = reads_or_explains("safetensors description", folder, lambda: read_masks(path))
    assert change or found is not None


@fuzz
@given(
    tensors=st.dictionaries(names, entries, max_size=3),
    about=st.one_of(st.none(), metadata, numbers),
    length=st.one_of(st.none(), st.integers(0, 2**64 - 1)),
    size=st.sampled_from([0, 9, 18, 144]),
    changes=edits,
)
def test_safetensors_headers(
    folder: Path, tensors: dict[str, Any], about: Any, length: int | None, size: int, changes: Edits
) -> None:
    header = json.dumps({**({} if about is None else {"__metadata__": about}), **tensors}).encode()
    header = edited(header, changes)
    path = folder / "de-en.safetensors"
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + b"\x01" * size)
    for reader in (read_masks, read_activations):
        reads_or_explains("safetensors header", folder, lambda reader=reader: reader(path))


# ---- the reference's: a zip of torch's, or a bare pickle ----


def torch_bytes(value: Any, **how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **how)
    return buffer.getvalue()


REFERENCE_MASKS = {
    f"{name}.fc1.weight": torch.from_numpy(mask).unsqueeze(1).expand(-1, 4).contiguous()
    for name, mask in LAYERS.items()
}
# of today, and of before torch 1.6
MASK_FILES = [torch_bytes(REFERENCE_MASKS, _use_new_zipfile_serialization=new) for new in (True, False)]


def edited_file(data: bytes, changes: Edits, inside: bool) -> bytes:
    """Edit a file of torch's; ``inside``: the pickle in its zip, with the checksum it then has."""
    if not (inside and data.startswith(b"PK")):
        return edited(data, changes)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for record in old.infolist():
            content = old.read(record)
            new.writestr(
                record.filename, edited(content, changes) if record.filename.endswith("data.pkl") else content
            )
    return buffer.getvalue()


@fuzz
@given(changes=edits, data=st.sampled_from(MASK_FILES), inside=st.booleans())
def test_the_references_masks(folder: Path, changes: Edits, data: bytes, inside: bool) -> None:
    path = folder / "de-en.pt"
    path.write_bytes(edited_file(data, changes, inside))
    found = reads_or_explains("the reference's masks", folder, lambda: import_masks(path))
    assert changes or (found is not None and found[1] == 4)


ACTIVATIONS = {
    f"{name.split('.')[0]}_layer_0": torch.from_numpy(counts) if name.startswith("e") else counts
    for name, counts in COUNTS.items()
}
ACTIVATION_FILES = [pickle.dumps(ACTIVATIONS, protocol=protocol) for protocol in (0, 2, 4, 5)]


@fuzz
@given(changes=edits, data=st.sampled_from(ACTIVATION_FILES))
def test_the_references_activations(folder: Path, changes: Edits, data: bytes) -> None:
    path = folder / "activations.pkl"
    path.write_bytes(edited(data, changes))
    found = reads_or_explains("the reference's activations", folder, lambda: import_activations(path))
    assert changes or found is not None


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


# a pickle is a program; these are its words, from harmless to not
WORDS = [
    *(
        b"(",
        b")",
        b"}",
        b"]",
        b"N",
        b"K\x01",
        b"K\x09",
        b"J\xff\xff\xff\xff",
        b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
    ),
    *(
        b"t",
        b"\x85",
        b"\x86",
        b"\x87",
        b"d",
        b"l",
        b"s",
        b"u",
        b"a",
        b"e",
        b"R",
        b"b",
        b"\x81",
        b"\x92",
        b"0",
        b"2",
    ),
    *(
        b"q\x00",
        b"h\x00",
        b"q\x01",
        b"h\x01",
        b"\x94",
        b"P0\n",
        b"Q",
        b"\x80\x04",
        b"\x95" + b"\x10" + b"\x00" * 7,
    ),
    *(
        b"C\x08" + b"\x01" * 8,
        b"C\x48" + b"\x01" * 72,
        b"X\x02\x00\x00\x00i8",
        b"X\x01\x00\x00\x00O",
        b"X\x01\x00\x00\x00<",
    ),
    *(b"X\x0f\x00\x00\x00encoder_layer_0", b"X\x06\x00\x00\x00latin1", b"C\x01b", b"K\x00", b"\x88", b"\x93"),
    *(
        named(*pair)
        for pair in (
            *(("collections", "OrderedDict"), ("collections", "defaultdict"), ("builtins", "list")),
            *(("builtins", "int"), ("_codecs", "encode"), ("torch._utils", "_rebuild_tensor_v2")),
            *(("torch.storage", "_load_from_bytes"), ("numpy", "ndarray"), ("numpy", "dtype")),
            *(("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "scalar")),
            *(
                ("numpy._core.numeric", "_frombuffer"),
                ("os", "system"),
                ("builtins", "eval"),
                ("builtins", "getattr"),
            ),
        )
    ),
    # whole phrases: an array of objects out of bytes; a type with a state of the file's choosing; a call
    named("numpy", "ndarray")
    + b"K\x01\x85"
    + named("numpy", "dtype")
    + b"X\x01\x00\x00\x00O\x85RC\x08AAAAAAAA\x87R",
    named("numpy", "dtype")
    + b"X\x02\x00\x00\x00i8K\x00K\x01\x87R"
    + b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
    named("os", "system") + b"X\x04\x00\x00\x00true\x85R",
]


@fuzz
@given(
    words=st.binary(max_size=25).map(lambda program: [WORDS[byte % len(WORDS)] for byte in program]),
    head=st.sampled_from([b"", b"}X\x0f\x00\x00\x00encoder_layer_0"]),
)
def test_programs_as_activations(folder: Path, words: list[bytes], head: bytes) -> None:
    path = folder / "activations.pkl"
    path.write_bytes(head + b"".join(words) + (b"s." if head else b"."))
    reads_or_explains("pickle programs", folder, lambda: import_activations(path))


# ---- binarised text ----


@fuzz
@given(changes=edits, extension=st.sampled_from(["idx", "bin"]))
def test_binarised_text(folder: Path, changes: Edits, extension: str) -> None:
    for code in ("de", "en"):
        prefix = folder / f"valid.de-en.{code}"
        write_mmap(prefix, np.array([5, 6, 2, 7, 2], np.uint16), np.array([3, 2], np.int32))
    changed = folder / f"valid.de-en.de.{extension}"
    changed.write_bytes(edited(changed.read_bytes(), changes))
    found = reads_or_explains(
        "binarised text", folder, lambda: read_parallel(folder, "valid", Direction("de", "en"))
    )
    assert changes or found is not None
    for side in found or ():
        assert [len(side[i]) for i in range(len(side))] == side.lengths.tolist()


large = st.sampled_from([0, 1, 2, 8, -1, 2**31 - 1, -(2**31), 2**62, 2**63 - 1, -(2**63)])


@fuzz
@given(
    code=st.integers(0, 255),
    rows=st.lists(st.tuples(large, large), max_size=4),
    count=st.one_of(st.none(), st.integers(0, 2**64 - 1)),
    size=st.integers(0, 40),
)
def test_index_files(
    folder: Path, code: int, rows: list[tuple[int, int]], count: int | None, size: int
) -> None:
    sizes = np.array([row[0] for row in rows]).astype(np.int32)
    pointers = np.array([row[1] for row in rows], np.int64)
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQ", 1, code % 12, len(rows) if count is None else count)
    (folder / "x.idx").write_bytes(head + sizes.tobytes() + pointers.tobytes())
    (folder / "x.bin").write_bytes(b"\x02" * size)
    found = reads_or_explains("index of binarised text", folder, lambda: Sentences.read(folder / "x"))
    if found is not None:
        assert [len(found[i]) for i in range(len(found))] == found.lengths.tolist()


# ---- checkpoints ----

STATE = fake.training_state(10)
CHECKPOINTS = [torch_bytes(STATE, _use_new_zipfile_serialization=new) for new in (True, False)]


@fuzz
@given(changes=edits, data=st.sampled_from(CHECKPOINTS), inside=st.booleans())
def test_checkpoints(folder: Path, changes: Edits, data: bytes, inside: bool) -> None:
    path = folder / "model.pt"
    path.write_bytes(edited_file(data, changes, inside))
    found = reads_or_explains("checkpoint", folder, lambda: load_checkpoint(path))
    assert changes or found is not None
    wrong = reads_or_explains("checkpoint, whether whole", folder, lambda: check_intact(path) or "whole")
    assert isinstance(wrong, str)


@fuzz
@given(changes=grafts, where=st.sampled_from(["cfg", "state", "args"]))
def test_what_a_checkpoint_says_of_itself(folder: Path, changes: Grafts, where: str) -> None:
    state = {**STATE, "model": dict(STATE["model"])}
    arguments = copy.deepcopy(vars(STATE["cfg"]["model"]))
    match where:
        case "cfg":
            arguments = grafted(arguments, changes)
            state["cfg"] = {"_name": None, "model": arguments, "task": arguments}
        case "args":
            state |= {"cfg": None, "args": fake.tiny_arguments()}
            state["args"].__dict__.clear()
            state["args"].__dict__.update(grafted(arguments, changes))
        case "state":
            state["cfg"] = {"_name": None, "model": arguments, "task": arguments}
            state = grafted(state, changes)
    path = folder / "model.pt"
    try:
        path.write_bytes(torch_bytes(state))
    except (OverflowError, UnicodeEncodeError, AttributeError, TypeError):
        return  # cannot be saved to begin with
    reads_or_explains("checkpoint, description", folder, lambda: load_checkpoint(path))


def test_the_guard_sees_what_a_reader_must_not_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness itself: every kind of misdeed makes a target fail."""
    outside = folder.parent / "outside"

    misdeeds: list[Callable[[], object]] = [
        lambda: outside.write_text("x"),
        lambda: (folder.parent / "made").mkdir(),
        lambda: (folder / "link").symlink_to(outside) or (folder / "x" / ".." / ".." / "y").write_text("x"),
        lambda: pickle.loads(b"cos\nsystem\n(S'true'\ntR."),
        lambda: exec("x = 1"),
    ]
    (folder / "x").mkdir()
    for misdeed in misdeeds:
        with pytest.raises(AssertionError):
            reads_or_explains("(the guard)", folder, misdeed)
    with pytest.raises(ValueError):
        reads_or_explains("(the guard)", folder, lambda: int("x"))

    for limit in ("MAX_CPU_SECONDS", "MAX_MEMORY_KIB"):
        with monkeypatch.context() as patch, pytest.raises(AssertionError):
            patch.setattr(harness, limit, -1)
            reads_or_explains("(the guard)", folder, lambda: None)

    def endless() -> None:
        while True:
            pass

    with monkeypatch.context() as patch, pytest.raises(harness.TakesForeverError):
        patch.setattr(harness, "MAX_CPU_SECONDS", 0.02)
        reads_or_explains("(the guard)", folder, endless)

    def refuses() -> None:
        raise NeuronSpecializationError("no")

    assert reads_or_explains("(the guard)", folder, refuses) is None
    assert reads_or_explains("(the guard)", folder, lambda: (folder / "z").write_text("x")) == 1
