"""Fingerprints of weights, settings and model folders."""

import json
import os
from pathlib import Path

import pytest
import torch

from core import fingerprints
from core.errors import InputError


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(40, 30, generator=draw), "b": torch.randn(7, generator=draw)}


def test_tensor_fingerprint_depends_on_values_names_and_shapes():
    tensors = weights()
    known = fingerprints.of_tensors(tensors)
    assert known == fingerprints.of_tensors(dict(reversed(tensors.items())))
    assert known == fingerprints.of_tensors({name: x.half() for name, x in tensors.items()})
    for name, value in tensors.items():
        for place in range(0, value.numel(), 13):
            other = value.clone()
            other.view(-1)[place] += 0.25
            assert fingerprints.of_tensors(tensors | {name: other}) != known
    assert fingerprints.of_tensors(tensors | {"a": tensors["a"].reshape(30, 40)}) != known
    assert fingerprints.of_tensors({"c": tensors["a"], "b": tensors["b"]}) != known


def test_settings_fingerprint_ignores_key_order():
    assert fingerprints.of_settings({"a": 1, "b": [2]}) == fingerprints.of_settings({"b": [2], "a": 1})
    assert fingerprints.of_settings({"a": 1}) != fingerprints.of_settings({"a": "1"})


def model(folder: Path) -> Path:
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text(json.dumps({"width": 3}))
    (folder / "unet" / "weights.safetensors").write_bytes(bytes(1000))
    (folder / "sheet.png").write_bytes(b"a picture")
    return folder


def test_folder_fingerprint_ignores_pictures_and_hidden_files(tmp_path: Path):
    known = fingerprints.of_folder(model(tmp_path / "one"))
    assert known == fingerprints.of_folder(model(tmp_path / "two"))
    (tmp_path / "two" / "sheet.png").write_bytes(b"another picture")
    (tmp_path / "two" / "._config.json").write_bytes(b"a Mac's")
    assert known == fingerprints.of_folder(tmp_path / "two")


@pytest.mark.parametrize("name", ["unet/config.json", "unet/weights.safetensors"])
def test_folder_fingerprint_changes_with_one_byte(tmp_path: Path, name: str):
    folder = model(tmp_path / "model")
    known = fingerprints.of_folder(folder)
    path = folder / name
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert fingerprints.of_folder(folder) != known


def test_folder_fingerprint_changes_when_a_file_moves(tmp_path: Path):
    folder = model(tmp_path / "model")
    known = fingerprints.of_folder(folder)
    (folder / "unet").rename(folder / "vae")
    assert fingerprints.of_folder(folder) != known


def test_empty_or_missing_folder_is_an_input_error(tmp_path: Path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=str(place)):
            fingerprints.of_folder(place)


def test_folder_fingerprint_follows_symlinks(tmp_path: Path):
    folder, cache = model(tmp_path / "model"), tmp_path / "cache"
    (folder / "unet").rename(cache)
    (folder / "unet").symlink_to(cache, target_is_directory=True)
    (cache / "loop").symlink_to(cache, target_is_directory=True)
    before = fingerprints.of_folder(folder)
    (path,) = cache.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert fingerprints.of_folder(folder) != before
