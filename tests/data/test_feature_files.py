import ast
import importlib
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from flashvtg_jax.data.feature_files import (
    FeatureHeader,
    feature_header,
    read_feature,
    read_tokens,
)
from flashvtg_jax.errors import DataError


def features(rows=3, width=4, dtype=np.float16):
    return np.arange(rows * width, dtype=dtype).reshape(rows, width)


def written(path, array, key="features"):
    if path.suffix == ".npz":
        np.savez(path, **{key: array, "other": np.zeros(2)})
    elif path.suffix == ".npy":
        np.save(path, array)
    else:
        torch = pytest.importorskip("torch")
        torch.save(torch.from_numpy(array), path)
    return path


@pytest.fixture(params=[".npz", ".npy", ".pt"])
def suffix(request):
    return request.param


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_reads_what_was_written_in_its_own_precision(tmp_path, suffix, dtype):
    path = written(tmp_path / f"-x.y_1.0_2.0{suffix}", features(dtype=dtype))
    array = read_feature(path, "features", 4)
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, features(dtype=dtype))
    assert feature_header(path, "features", 4) == FeatureHeader(3, 4, np.dtype(dtype))


def test_reads_compressed_archives_as_well(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", features=features())
    np.testing.assert_array_equal(read_feature(tmp_path / "a.npz", "features"), features())
    assert feature_header(tmp_path / "a.npz", "features").rows == 3


def test_column_major_arrays_keep_their_shape(tmp_path):
    path = written(tmp_path / "a.npy", np.asfortranarray(features()))
    np.testing.assert_array_equal(read_feature(path, ""), features())


def test_rows_of_one_token_are_tokens_as_well(tmp_path):
    np.save(tmp_path / "a.npy", features())
    tokens = read_tokens(tmp_path / "a.npy", None, 4)
    np.testing.assert_array_equal(tokens, features()[:, None])


both = pytest.mark.parametrize("read", [read_feature, feature_header])


def error_of(read, path, key="features", width=None):
    with pytest.raises(DataError) as info:
        read(path, key, width)
    message = str(info.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@both
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_a_missing_file_is_an_error_that_names_it(tmp_path, read, suffix):
    assert "no such file" in error_of(read, tmp_path / f"a{suffix}")


@both
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
@pytest.mark.parametrize("keep", [0, 3, 100, 300])
def test_a_file_cut_short_is_an_error_that_says_what_to_do(tmp_path, read, suffix, keep):
    path = written(tmp_path / f"a{suffix}", features(40, 4))
    path.write_bytes(path.read_bytes()[:keep])
    assert "extract or download it again" in error_of(read, path)


def test_a_damaged_archive_is_an_error(tmp_path):
    path = written(tmp_path / "a.npz", features(40, 4))
    content = bytearray(path.read_bytes())
    content[250] ^= 0xFF
    path.write_bytes(content)
    assert "cannot be read" in error_of(read_feature, path)


@both
def test_a_file_of_another_format_is_an_error(tmp_path, read):
    path = tmp_path / "a.npz"
    path.write_text("<html>404</html>")
    assert "cannot be read" in error_of(read, path)


@both
def test_a_wrong_key_lists_the_keys_there_are(tmp_path, read):
    path = written(tmp_path / "a.npz", features(), key="last_hidden_state")
    message = error_of(read, path)
    assert "'features'" in message
    assert "last_hidden_state, other" in message


@both
@pytest.mark.parametrize("suffix", [".npz", ".pt"])
@pytest.mark.parametrize(
    "names", [["embedding"], ["features", "frames"], ["pooler_output", "last_hidden_state"]]
)
def test_without_a_key_the_only_or_the_usual_array_is_read(tmp_path, read, suffix, names):
    usual = {"embedding", "features", "last_hidden_state"}
    arrays = {name: features() if name in usual else np.zeros((1, 1)) for name in names}
    path = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
    else:
        torch = pytest.importorskip("torch")
        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    found = read(path, None)
    assert (found.shape if read is read_feature else tuple(found)[:2]) == (3, 4)


@both
def test_without_a_key_several_arrays_of_unusual_names_are_an_error(tmp_path, read):
    np.savez(tmp_path / "a.npz", one=features(), other=features())
    message = error_of(read, tmp_path / "a.npz", key=None)
    assert "which array is meant? It holds one, other; store the features alone" in message
    with zipfile.ZipFile(tmp_path / "b.npz", "w"):
        pass
    assert "It holds none" in error_of(read, tmp_path / "b.npz", key=None)


@both
def test_another_width_names_both(tmp_path, suffix, read):
    path = written(tmp_path / f"a{suffix}", features(3, 4))
    assert "expected width 512, got 4" in error_of(read, path, width=512)


@both
@pytest.mark.parametrize("shape", [(4,), (1, 3, 4), ()])
def test_another_rank_is_an_error(tmp_path, suffix, read, shape):
    path = written(tmp_path / f"a{suffix}", np.zeros(shape, np.float16))
    assert "[rows, width]" in error_of(read, path)


@both
def test_zero_clips_are_an_error(tmp_path, suffix, read):
    path = written(tmp_path / f"a{suffix}", np.zeros((0, 4), np.float16))
    assert "empty" in error_of(read, path)


@both
def test_integers_are_an_error(tmp_path, suffix, read):
    path = written(tmp_path / f"a{suffix}", np.zeros((2, 4), np.int32))
    assert "floating-point" in error_of(read, path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_an_error_that_counts_them(tmp_path, suffix, value):
    array = features(5, 4)
    array[2, 1] = array[4, 0] = value
    path = written(tmp_path / f"a{suffix}", array)
    assert "in 2 of 5 rows (first: row 2)" in error_of(read_feature, path)
    assert feature_header(path, "features").rows == 5  # the numbers are not read


@both
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_pickled_objects_are_never_loaded(tmp_path, read, suffix):
    marker = tmp_path / "marker"

    class Mischief:
        def __reduce__(self):
            return Path.touch, (marker,)

    path = written(tmp_path / f"a{suffix}", np.array([[Mischief()]], object))
    assert path.name in error_of(read, path)
    assert not marker.exists()


@both
def test_a_header_that_lies_about_its_size_is_an_error(tmp_path, read):
    path = tmp_path / "a.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(4, 4))
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"(4, 4)", b"(9, 4)"))
    assert "cut short" in error_of(read, path)
    path.write_bytes(whole.replace(b"(4, 4), }            ", b"(4" + b"0" * 12 + b", 4), }"))
    assert "cut short, 160 of 32" in error_of(read, path)  # no memory is taken for it
    path.write_bytes(whole.replace(b"(4, 4), ", b"(-1, 4),"))
    assert "empty, shape [-1, 4]" in error_of(read, path)


@both
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"4), }", b"4(, }"),  # tokenize.TokenError
        (b"{'descr'", b"{['desc'"),
        (b"'<f2'", b"()   "),  # IndexError
        (b"{'descr': '<f2'", b"{[]: 1, 'd': 22"),  # TypeError
    ],
)
def test_a_damaged_header_is_an_error(tmp_path, read, suffix, old, new):
    np.save(tmp_path / "whole.npy", features())
    content = (tmp_path / "whole.npy").read_bytes()
    assert old in content and len(old) == len(new)
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        path.write_bytes(content.replace(old, new))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("features.npy", content.replace(old, new))
    assert "cannot be read" in error_of(read, path)


def test_an_unknown_compression_is_an_error(tmp_path):
    path = written(tmp_path / "a.npz", features())
    with zipfile.ZipFile(path) as archive:
        (method,) = {info.compress_type for info in archive.infolist()}
    content = path.read_bytes()
    assert method == 0
    at = content.index(b"PK\x01\x02") + 10  # compression method in the central directory
    path.write_bytes(content[:at] + b"\x63" + content[at + 1 :])
    assert "cannot be read" in error_of(feature_header, path)


@both
def test_pt_files_without_pytorch_say_what_to_install(tmp_path, read, monkeypatch):
    path = tmp_path / "a.pt"
    path.write_bytes(b"")
    import_module = importlib.import_module

    def without_torch(name, *args):
        if name == "torch":
            raise ModuleNotFoundError(name)
        return import_module(name, *args)

    monkeypatch.setattr(importlib, "import_module", without_torch)
    message = error_of(read, path)
    assert "pip install 'flashvtg-jax[torch]'" in message


def with_torch(monkeypatch, version, load=None):
    torch = types.ModuleType("torch")
    torch.__version__, torch.load = version, load
    import_module = importlib.import_module
    monkeypatch.setattr(
        importlib, "import_module", lambda x, *args: torch if x == "torch" else import_module(x)
    )


@both
@pytest.mark.parametrize("version", ["2.5.1+cpu", "1.13.0"])
def test_an_old_pytorch_reads_no_files(tmp_path, read, monkeypatch, version):
    with_torch(monkeypatch, version)
    message = error_of(read, tmp_path / "a.pt")
    assert f"PyTorch {version} is too old to read a file without running" in message
    assert "install 2.6 or newer" in message


@both
@pytest.mark.parametrize(
    "error", [KeyError("x"), AttributeError("y"), AssertionError(), IndexError]
)
def test_whatever_pytorch_raises_is_an_error_of_the_file(tmp_path, read, monkeypatch, error):
    def load(*_, **__):
        raise error

    with_torch(monkeypatch, "2.10.0", load)
    assert "cannot be read" in error_of(read, tmp_path / "a.pt")


@both
def test_pt_files_of_other_things_than_tensors_are_errors(tmp_path, read):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pt"
    assert "no such file" in error_of(read, path)
    torch.save([1, 2], path)
    assert "expected a tensor" in error_of(read, path)
    torch.save({"x": torch.zeros(2, 4)}, path)
    assert "it holds x" in error_of(read, path)
    torch.save(zipfile.ZipInfo(), path)  # a class that weights_only refuses
    assert "cannot be read" in error_of(read, path)
    path.write_bytes(path.read_bytes()[:100])
    assert "cannot be read" in error_of(read, path)


def test_pt_dictionaries_and_bfloat16_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    tensor = torch.ones(2, 4, dtype=torch.bfloat16, requires_grad=True)
    torch.save({"features": tensor}, tmp_path / "a.pt")
    array = read_feature(tmp_path / "a.pt", "features", 4)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, np.ones((2, 4)))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_header_that_another_thread_kept_from_being_parsed_is_read_again(
    tmp_path, monkeypatch, suffix
):
    array, path = np.ones((3, 2), np.float32), tmp_path / f"a{suffix}"
    np.save(path, array) if suffix == ".npy" else np.savez(path, features=array)
    parse, calls = ast.literal_eval, []

    def disturbed(text):  # as CPython 3.11.7 does, now and then
        calls.append(text)
        if len(calls) in (1, 3, 4):
            raise SystemError("AST constructor recursion depth mismatch (before=48, after=39)")
        return parse(text)

    monkeypatch.setattr(ast, "literal_eval", disturbed)
    np.testing.assert_array_equal(read_feature(path, None), array)
    assert len(calls) == 5  # the header is looked at first, then the array is read
    monkeypatch.setattr(ast, "literal_eval", lambda text: 1 / 0)
    with pytest.raises(DataError, match="cannot be read"):
        read_feature(path, None)
