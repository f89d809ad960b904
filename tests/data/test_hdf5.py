"""Features in HDF5 files."""

import gc
import importlib

import numpy as np
import pytest

from flashvtg_jax.data.feature_files import FeatureHeader, feature_header, read_feature
from flashvtg_jax.errors import DataError

h5py = pytest.importorskip("h5py")

FEATURES = np.arange(12, dtype=np.float16).reshape(3, 4)


@pytest.fixture(params=[".h5", ".hdf5"])
def path(request, tmp_path):
    return tmp_path / f"x.y_1.0{request.param}"


def error_of(path, key=None):
    messages = set()
    for read in (read_feature, feature_header):
        with pytest.raises(DataError) as info:
            read(path, key)
        messages.add(str(info.value))
    (message,) = messages
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ">f8"])
def test_a_file_of_one_video_is_read_as_others_are(path, dtype):
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=FEATURES.astype(dtype), compression="gzip")
        file["times"] = np.zeros(3)
    np.testing.assert_array_equal(read_feature(path, "features", 4), FEATURES)
    assert feature_header(path, None, 4) == FeatureHeader(3, 4, np.dtype(dtype))
    assert "no array 'clip' in it; it holds features, times" in error_of(path, "clip")


def test_a_file_for_all_videos_holds_arrays_or_groups_by_their_names(path):
    with h5py.File(path, "w") as file:
        file["v_1.0.mp4"] = FEATURES
        file["v2/c3d_features"] = FEATURES + 1
        file["v3/features"], file["v3/other"] = FEATURES + 2, np.zeros(1)
        file["v4/one"] = file["v4/two"] = FEATURES
    for number, name in enumerate(("v_1.0.mp4", "v2", "v3")):
        np.testing.assert_array_equal(read_feature(path / name, None), FEATURES + number)
        assert feature_header(path / name, None).rows == 3
    assert "which array is meant? It holds one, two" in error_of(path / "v4")
    assert "cannot be read" in error_of(path / "v5")


def test_arrays_in_other_files_are_refused(path, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["v1"] = FEATURES
    (tmp_path / "raw").write_bytes(FEATURES.tobytes())
    layout = h5py.VirtualLayout(shape=(3, 4), dtype=np.float16)
    layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "v1", shape=(3, 4))
    with h5py.File(path, "w") as file:
        file["link"] = h5py.ExternalLink("secret.h5", "v1")
        file["soft"] = h5py.SoftLink("/link")
        file["group/features"] = h5py.ExternalLink("secret.h5", "v1")
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("raw", (3, 4), np.float16, external=str(tmp_path / "raw"))
    for name in ("link", "soft", "group"):
        assert "a link to another array or file" in error_of(path / name)
    for name in ("virtual", "raw"):
        assert "its numbers are in other files" in error_of(path / name)
    # Tracebacks keep the virtual array, conftest freezes them, and HDF5 would crash at exit.
    gc.collect()


def test_what_is_no_array_of_numbers_is_refused(path):
    with h5py.File(path, "w") as file:
        file["text"] = ["a", "b"]
        file["empty"] = h5py.Empty("f4")
        file["record"] = np.zeros(3, [("x", "f4")])
        file["integers"] = np.zeros((3, 4), int)
        circle = file.create_group("circle")
        circle["features"] = circle
    for name in ("text", "empty", "record"):
        assert "expected an array of numbers" in error_of(path / name)
    assert "expected floating-point numbers" in error_of(path / "integers")
    assert "groups within groups" in error_of(path / "circle")


def test_an_array_that_was_never_filled_is_an_error(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("v1", (300, 400), "f4", chunks=(10, 400))[:20] = 1
        file.create_dataset("v2", (3, 4), "f4")
    assert "only 32000 of 480000 bytes were written" in error_of(path / "v1")
    assert "only 0 of 48 bytes were written" in error_of(path / "v2")


def test_damaged_files_are_errors(path):
    assert "no such file" in error_of(path)
    path.write_text("<html>404</html>")
    assert "cannot be read" in error_of(path)
    with h5py.File(path, "w") as file:
        file["features"] = np.ones((300, 40))
    path.write_bytes(path.read_bytes()[:4000])
    assert "cannot be read" in error_of(path)


def test_without_h5py_the_error_says_what_to_install(path, monkeypatch):
    path.write_bytes(b"")
    import_module = importlib.import_module

    def without_h5py(name, *args):
        if name == "h5py":
            raise ModuleNotFoundError(name)
        return import_module(name, *args)

    monkeypatch.setattr(importlib, "import_module", without_h5py)
    assert "pip install 'flashvtg-jax[hdf5]'" in error_of(path)
