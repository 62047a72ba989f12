"""The reference's masks and activations: read and written, hostile files refused."""

from __future__ import annotations

import collections
import json
import os
import pickle
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neuron_specialization.activations.counts import read_activations
from neuron_specialization.cli import cli
from neuron_specialization.errors import MaskError
from neuron_specialization.formats.reference_masks import export_masks, import_activations, import_masks
from neuron_specialization.storage.layer_masks import read_masks, write_masks


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


# ---- masks ----


@settings(max_examples=20)
@given(mask=hnp.arrays(np.bool_, st.integers(1, 30)), width=st.integers(1, 9))
def test_masks_survive_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray, width: int
) -> None:
    path = tmp_path_factory.mktemp("x") / "de-en.pt"
    layers = {"encoder.layers.0": mask, "decoder.layers.0": ~mask, "encoder.layers.1": ~mask}
    export_masks(path, layers, width)
    again, read_width = import_masks(path)
    assert read_width == width
    assert list(again) == ["encoder.layers.0", "encoder.layers.1", "decoder.layers.0"]
    assert all((again[name] == layers[name]).all() for name in layers)


def test_masks_as_the_reference_writes_them_are_read(tmp_path: Path) -> None:
    """Upstream: ints, unsqueezed, expanded, cast to bool; saved by torch.save."""
    kept = torch.tensor([1, 0, 1])
    state = {
        f"{side}.layers.{i}.fc1.weight": kept.unsqueeze(1).expand([3, 4]).bool()
        for side in ("encoder", "decoder")
        for i in range(11)
    }
    torch.save(state, tmp_path / "de-en.pt")
    layers, width = import_masks(tmp_path / "de-en.pt")
    assert width == 4 and len(layers) == 22
    assert list(layers)[:3] == ["encoder.layers.0", "encoder.layers.1", "encoder.layers.2"]  # not 0, 1, 10
    assert layers["decoder.layers.10"].tolist() == [True, False, True]


class Evil:
    def __reduce__(self) -> Any:
        return (os.system, ("touch pwned",))


def torch_file(path: Path, kind: str) -> None:
    row = torch.tensor([[True, True], [False, False]])
    key = "encoder.layers.0.fc1.weight"
    match kind:
        case "code":
            torch.save({key: Evil()}, path)
        case "cut short":
            torch.save({key: row}, path)
            path.write_bytes(path.read_bytes()[:-40])
        case "text":
            path.write_text("<html></html>")
        case "empty":
            path.write_bytes(b"")
        case "list":
            torch.save([row], path)
        case "no layer":
            torch.save({}, path)
        case "attention":
            torch.save({key: row, "encoder.layers.0.self_attn.k_proj.weight": row}, path)
        case "too few layers":
            torch.save({key: row, "encoder.layers.1.fc1.weight": []}, path)
        case "float":
            torch.save({key: row.float()}, path)
        case "vector":
            torch.save({key: row[:, 0]}, path)
        case "single weights":
            torch.save({key: torch.tensor([[True, False], [True, True]])}, path)
        case "gap":
            torch.save({key: row, "encoder.layers.2.fc1.weight": row}, path)
        case "widths":
            torch.save({key: row, "encoder.layers.1.fc1.weight": row[:, :1]}, path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("code", "refused: the file asks for more than tensors"),
        ("cut short", "cannot be read"),
        ("text", "refused|cannot be read"),
        ("empty", "refused|cannot be read"),
        ("list", "no dictionary"),
        ("no layer", "no dictionary"),
        ("attention", r"self_attn\.k_proj\.weight.*masks more than FFN neurons"),
        ("too few layers", r"layers\.1\.fc1\.weight is empty"),
        ("float", "no bool"),
        ("vector", "no bool"),
        ("single weights", "masks single weights"),
        ("gap", r"layers\.1 is missing"),
        ("widths", "different widths"),
        ("absent", "missing"),
    ],
)
def test_what_is_no_neuron_mask_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "de-en.pt"
    torch_file(path, kind)
    with pytest.raises(MaskError, match=message) as caught:
        import_masks(path)
    assert "de-en.pt" in str(caught.value)
    assert not (tmp_path / "pwned").exists()


# ---- activations ----

COUNTS = {"encoder_layer_0": [3, 0, 5], "decoder_layer_0": [1, 2, 2**40]}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "container", [dict, collections.OrderedDict, lambda x: collections.defaultdict(list, x)]
)
@pytest.mark.parametrize("values", [torch.tensor, np.array, list, lambda x: torch.tensor([0, *x])[1:]])
def test_pickled_counts_of_any_plain_kind_are_read(
    tmp_path: Path, protocol: int, container: Any, values: Any
) -> None:
    path = tmp_path / "activations.pkl"
    content = container({name: values(counts) for name, counts in COUNTS.items()})
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    layers = import_activations(path)
    assert {name: counts.tolist() for name, counts in layers.items()} == {
        "encoder.layers.0": [3, 0, 5],
        "decoder.layers.0": [1, 2, 2**40],
    }
    assert all(counts.dtype == np.int64 for counts in layers.values())


class InnerEvil:
    """A storage whose bytes are themselves a hostile pickle: torch's own loader of them would run it."""

    def __reduce__(self) -> Any:
        return (torch.storage._load_from_bytes, (pickle.dumps(Evil()),))


class Numpy:
    """A numpy function that would read any file."""

    def __reduce__(self) -> Any:
        return (np.fromfile, ("/etc/passwd",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"encoder_layer_0": Evil()}, r"asks to load posix\.system"),
        ({"encoder_layer_0": InnerEvil()}, "cannot be read"),
        ({"encoder_layer_0": Numpy()}, "asks to load"),
        ({"encoder_layer_0": Path("x")}, r"asks to load pathlib"),
        ({"encoder_layer_0": getattr}, r"asks to load builtins\.getattr"),
        ([1, 2], "no dictionary"),
        ({}, "no dictionary"),
        ({"layer 0": [1]}, "not the name of a layer"),
        ({"encoder_layer_0": [0.5]}, "no counts"),
        ({"encoder_layer_0": [-1]}, "no counts"),
        ({"encoder_layer_0": [[1]]}, "no counts"),
        ({"encoder_layer_0": "text"}, "no counts"),
        ({"encoder_layer_1": [1]}, r"encoder\.layers\.0 is missing"),
    ],
)
def test_pickles_of_anything_else_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "activations.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(MaskError, match=message) as caught:
        import_activations(path)
    assert "activations.pkl" in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_a_pickle_that_asks_for_a_table_of_64_gigabytes_gets_none(tmp_path: Path) -> None:
    """Found by fuzzing: LONG_BINPUT gives a value the number 2**32 - 1."""
    path = tmp_path / "activations.pkl"
    path.write_bytes(b"\x80\x02}r\xff\xff\xff\xffX\x0f\x00\x00\x00encoder_layer_0]K\x03as.")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), limits[1]))
    try:
        assert import_activations(path)["encoder.layers.0"].tolist() == [3]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


# numpy.ndarray((1,), dtype("O"), b"AAAAAAAA"): a pointer of the file's choosing
WILD_POINTER = (
    b"\x80\x02}X\x0f\x00\x00\x00encoder_layer_0cnumpy\nndarray\nK\x01\x85"
    b"cnumpy\ndtype\nX\x01\x00\x00\x00O\x85RU\x08AAAAAAAA\x87Rs."
)


def test_a_pickle_that_makes_objects_of_bytes_is_refused(tmp_path: Path) -> None:
    """Allowing numpy's own names is not enough: unpickled with them, this is an array of a wild pointer."""
    path = tmp_path / "activations.pkl"
    path.write_bytes(WILD_POINTER)
    with pytest.raises(MaskError, match="not a type of numbers"):
        import_activations(path)


def test_damaged_and_absent_pickles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "activations.pkl"
    with pytest.raises(MaskError, match="missing"):
        import_activations(path)
    data = pickle.dumps({name: torch.tensor(counts) for name, counts in COUNTS.items()})
    for broken in (b"", data[: len(data) // 2], b"not a pickle", data[:60] + b"\xff" + data[61:]):
        path.write_bytes(broken)
        with pytest.raises(MaskError, match=r"cannot be read|refused"):
            import_activations(path)


def test_only_the_flag_lets_a_pickle_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a" / "de-en" / "activations.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps({"encoder_layer_0": [1], "x": Evil()}))
    arguments = ("import-activations", "--activations", tmp_path / "a", "--output", tmp_path / "o")
    result = run(*arguments)
    assert isinstance(result.exception, MaskError) and "--allow-unsafe-pickle" in str(result.exception)
    assert not (tmp_path / "pwned").exists()
    run(*arguments, "--allow-unsafe-pickle")
    assert (tmp_path / "pwned").exists()


# ---- the commands ----


def test_activations_are_imported_and_become_masks(tmp_path: Path) -> None:
    for direction in ("de-en", "en-de"):
        path = tmp_path / "a" / direction / "activations.pkl"
        path.parent.mkdir(parents=True)
        path.write_bytes(pickle.dumps({name: torch.tensor(counts) for name, counts in COUNTS.items()}))
    result = run("import-activations", "--activations", tmp_path / "a", "--output", tmp_path / "o", "--json")
    assert json.loads(result.stdout)["directions"]["de-en"] == {
        "encoder.layers.0": 8,
        "decoder.layers.0": 2**40 + 3,
    }
    layers, metadata = read_activations(tmp_path / "o" / "en-de.safetensors")
    assert layers["encoder.layers.0"].tolist() == [3, 0, 5] and metadata["padding"] == "counted"
    result = run("masks", "--activations", tmp_path / "o", "--k", "50", "--output", tmp_path / "m")
    assert result.exit_code == 0, result.output
    assert read_masks(tmp_path / "m" / "de-en.safetensors").layers["encoder.layers.0"].tolist() == [
        False,
        False,
        True,
    ]


def write(folder: Path, direction: str, **widths: int) -> None:
    masks = {f"{name}.layers.0": np.arange(width) % 2 == 0 for name, width in widths.items()}
    write_masks(folder / f"{direction}.safetensors", masks, {"direction": direction})


def test_masks_are_exported_and_imported_by_the_commands(tmp_path: Path) -> None:
    for direction in ("de-en", "en-de"):
        write(tmp_path / "ours", direction, encoder=6, decoder=8)
    result = run(
        "export-masks", "--masks", tmp_path / "ours", "--d-model", 3, "--output", tmp_path / "theirs"
    )
    assert result.exit_code == 0, result.output
    state = torch.load(tmp_path / "theirs" / "en-de.pt", weights_only=True)
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        "encoder.layers.0.fc1.weight": (6, 3),
        "decoder.layers.0.fc1.weight": (8, 3),
    }
    result = run("import-masks", "--masks", tmp_path / "theirs", "--output", tmp_path / "again", "--packed")
    assert result.exit_code == 0, result.output
    for direction in ("de-en", "en-de"):
        ours = read_masks(tmp_path / "ours" / f"{direction}.safetensors")
        again = read_masks(tmp_path / "again" / f"{direction}.safetensors")
        assert all((again.layers[name] == mask).all() for name, mask in ours.layers.items())
        assert again.metadata["method"] == "imported" and again.metadata["packed"] == "true"


def test_masks_of_different_models_are_not_imported_together(tmp_path: Path) -> None:
    export_masks(tmp_path / "de-en.pt", {"encoder.layers.0": np.ones(4, dtype=np.bool_)}, 2)
    export_masks(tmp_path / "en-de.pt", {"encoder.layers.0": np.ones(5, dtype=np.bool_)}, 2)
    result = run("import-masks", "--masks", tmp_path, "--output", tmp_path / "o")
    assert isinstance(result.exception, MaskError) and "has 5 neurons, expected 4" in str(result.exception)
    assert not (tmp_path / "o").exists()


def test_usage_errors_and_empty_folders_are_explained(tmp_path: Path) -> None:
    write(tmp_path / "ours", "de-en", encoder=6)
    result = run("export-masks", "--masks", tmp_path / "ours", "--output", tmp_path / "o")
    assert result.exit_code == 2 and "either --d-model or --checkpoint" in result.output
    (tmp_path / "empty").mkdir()
    for command, option in (("import-activations", "--activations"), ("import-masks", "--masks")):
        result = run(command, option, tmp_path / "empty", "--output", tmp_path / "o")
        assert isinstance(result.exception, MaskError), result.output
