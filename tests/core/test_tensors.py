"""Reading of weight files: round trips, and errors for everything else."""

import pytest
import torch
from safetensors.torch import save_file

from core.errors import InputError
from core.tensors import read_json, read_tensors

NOT_THE_FILE = {
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 10737418240\n", "Git LFS"),
    "page": (b"\n<!DOCTYPE html><html><title>Quota exceeded</title></html>\n", "is a web page"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".th", ".json"])
@pytest.mark.parametrize("kind", NOT_THE_FILE)
def test_lfs_pointers_and_web_pages_are_named(tmp_path, suffix, kind):
    content, message = NOT_THE_FILE[kind]
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_json(path) if suffix == ".json" else read_tensors(path)


class Payload:
    def __reduce__(self):
        return print, ("executed",)


def test_pickled_code_is_refused_without_pytorchs_advice(tmp_path, capsys):
    torch.save({"w": torch.zeros(2), "more": Payload()}, tmp_path / "a.th")
    with pytest.raises(
        InputError, match=r"a\.th holds more than tensors \(.*print\), and is not loaded"
    ) as end:
        read_tensors(tmp_path / "a.th")
    (tmp_path / "b.th").write_bytes(b"some text, and no weights")
    with pytest.raises(InputError, match=r"b\.th is truncated or no PyTorch file") as other:
        read_tensors(tmp_path / "b.th")
    assert all("weights_only" not in str(error.value) for error in (end, other))
    assert not capsys.readouterr().out


def test_truncated_files_are_input_errors(tmp_path):
    tensors = {"w": torch.randn(5000)}
    torch.save(tensors, tmp_path / "a.th")
    save_file(tensors, tmp_path / "a.safetensors")
    for path in (tmp_path / "a.th", tmp_path / "a.safetensors"):
        torch.testing.assert_close(read_tensors(path), tensors)
        path.write_bytes(path.read_bytes()[:9000])
        with pytest.raises(InputError, match="is truncated or no"):
            read_tensors(path)
