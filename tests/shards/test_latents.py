"""Latents in shards: encoding, caching, and the fingerprint of their VAE."""

import io
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from core.destination import Destination
from core.errors import IncompleteError, InputError
from core.files import RESULT
from shards import cache_latents as command
from shards.builder import build
from shards.index import ShardIndex
from shards.latent_cache import Encoder, cache, load_vae, moments
from shards.latents import Latents, decode_latents, encode_latents, fingerprint_of, vae_fingerprint
from shards.manifest import Manifest
from shards.reader import read_members
from shards.schema import SampleError, decode
from tests.engines import REASON, GivesUp
from tests.shards.fake_source import FakeSource


def toy_vae(seed: int = 0) -> AutoencoderKL:
    """A VAE that downsamples by 2."""
    torch.manual_seed(seed)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    return AutoencoderKL(block_out_channels=[8, 8], norm_num_groups=4, **blocks).eval()


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return toy_vae()


@pytest.fixture(scope="module")
def folders(vae: AutoencoderKL, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A built folder, and the same with latents."""
    root = tmp_path_factory.mktemp("latents")
    build(FakeSource(2, 1, views=4, size=16), root / "plain", 0)
    cache(root / "plain", Destination(root / "cached"), vae)
    return root / "plain", root / "cached"


@pytest.fixture
def latents() -> Latents:
    rng = np.random.default_rng(0)
    views, mirrored = rng.standard_normal((2, 3, 8, 4, 4)).astype(np.float16)
    return Latents("0123456789abcdef", views, mirrored)


def test_latents_round_trip_deterministically(latents: Latents):
    data = encode_latents(latents)
    assert data == encode_latents(latents)
    found = decode_latents(data, 3)
    assert found.fingerprint == latents.fingerprint
    np.testing.assert_array_equal(found.views, latents.views)
    np.testing.assert_array_equal(found.mirrored, latents.mirrored)
    assert fingerprint_of(data) == latents.fingerprint


def zipped(compression: int = zipfile.ZIP_STORED, **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            np.save(data, array, allow_pickle=True)
            archive.writestr(f"{name}.npy", data.getvalue())
    return file.getvalue()


def test_invalid_latents_are_sample_errors(latents: Latents):
    good = encode_latents(latents)
    name = np.frombuffer(b"0123456789abcdef", np.uint8)
    bomb = np.zeros((3, 8, 512, 512), np.float16)
    pickled = np.array([{"evil": 1}] * 3, dtype=object)
    bad = [
        b"",
        good[:-40],
        good[: len(good) // 2],
        zipped(fingerprint=name, views=latents.views),
        zipped(fingerprint=name, views=latents.views, mirrored=latents.mirrored, more=name),
        zipped(zipfile.ZIP_DEFLATED, fingerprint=name, views=bomb, mirrored=bomb),
        zipped(fingerprint=name, views=pickled, mirrored=pickled),
        zipped(fingerprint=name, views=latents.views.astype(float), mirrored=latents.mirrored),
        zipped(fingerprint=name[:4], views=latents.views, mirrored=latents.mirrored),
        zipped(fingerprint=name, views=latents.views, mirrored=latents.mirrored[:, :, :2]),
    ]
    for data in bad:
        with pytest.raises(SampleError, match="its latents"):
            decode_latents(data, 3)
    with pytest.raises(SampleError, match="its latents"):
        decode_latents(good, 4)


def test_any_damage_of_the_archives_records_is_a_sample_error(latents: Latents):
    """Also of a member's flags and method of compression, for which zipfile has exceptions of its own."""
    good = encode_latents(latents)
    expected = decode_latents(good, 3)
    records = [*range(60), *range(good.index(b"PK\1\2"), len(good))]
    for place in records:
        for bit in range(8):
            data = bytearray(good)
            data[place] ^= 1 << bit
            try:
                found = decode_latents(bytes(data), 3)
            except SampleError:
                continue
            np.testing.assert_array_equal(found.views, expected.views)


def test_vae_fingerprint_depends_on_the_encoder_only(vae: AutoencoderKL):
    name = vae_fingerprint(vae)
    assert name == vae_fingerprint(toy_vae().half())
    assert name != vae_fingerprint(toy_vae(1))
    other = toy_vae()
    with torch.no_grad():
        other.decoder.conv_in.weight.add_(1)
    assert name == vae_fingerprint(other)


def test_cached_shards_hold_the_vaes_moments(vae: AutoencoderKL, folders: tuple[Path, Path]):
    plain, cached = folders
    assert Manifest.load(cached).latents_of == vae_fingerprint(vae)
    for before, after in zip(Manifest.load(plain).shards, Manifest.load(cached).shards, strict=True):
        index = ShardIndex.scan(cached / after.name)
        assert index.keys == ShardIndex.scan(plain / before.name).keys
        for number in range(len(index)):
            sample = decode(read_members(cached / after.name, index.members(number)))
            found = decode_latents(sample.latents, 4)
            np.testing.assert_allclose(found.views, moments(vae, sample.views), atol=2e-3)
            np.testing.assert_allclose(found.mirrored, moments(vae, sample.views[:, :, ::-1]), atol=2e-3)
            assert found.views.shape == (4, 8, 8, 8)


def test_interrupted_caching_resumes(vae: AutoencoderKL, folders: tuple[Path, Path], tmp_path: Path):
    plain, cached = folders
    copy, out = tmp_path / "copy", tmp_path / "again"
    shutil.copytree(plain, copy)
    first, *_, last = (shard.name for shard in Manifest.load(plain).shards)
    (copy / last).unlink()
    with pytest.raises(InputError, match=f"{last} is missing"):
        cache(copy, Destination(out), vae)
    done = tmp_path / "again.partial" / RESULT / first
    stamp = done.stat().st_mtime_ns
    shutil.copy(plain / last, copy)
    assert cache(copy, Destination(out), vae) == Manifest.load(cached)
    assert (out / first).stat().st_mtime_ns == stamp


def test_caching_does_not_resume_with_other_images(
    vae: AutoencoderKL, folders: tuple[Path, Path], tmp_path: Path
):
    plain, _ = folders
    copy, out = tmp_path / "copy", tmp_path / "out"
    shutil.copytree(plain, copy)
    manifest = Manifest.load(plain)
    (copy / manifest.shards[-1].name).unlink()
    with pytest.raises(InputError, match="is missing"):
        cache(copy, Destination(out), vae)
    replace(manifest, shards=[replace(shard, sha256="0" * 64) for shard in manifest.shards]).save(copy)
    with pytest.raises(InputError, match="with other settings"):
        cache(copy, Destination(out), vae)
    assert not out.exists()


def test_latents_of_damaged_shards_are_refused(folders, vae, tmp_path):
    damaged = shutil.copytree(folders[0], tmp_path / "damaged")
    path = damaged / "val-000000.tar"
    offset, size = ShardIndex.scan(path).members(0)["view_00.jpg"]
    data = bytearray(path.read_bytes())
    data[offset + size - 20] ^= 1  # the image still decodes
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"val-000000\.tar: its checksum differs from that in the manifest"):
        cache(damaged, Destination(tmp_path / "out"), vae)
    assert not (tmp_path / "out").exists()


def test_invalid_arguments_are_input_errors(folders: tuple[Path, Path], vae: AutoencoderKL, tmp_path: Path):
    plain, cached = folders
    with pytest.raises(InputError, match="exists already"):
        cache(plain, Destination(cached), vae)
    with pytest.raises(InputError, match=r"no vae/config\.json in it"):
        load_vae(str(tmp_path), "cpu")
    vae.save_pretrained(tmp_path / "backbone" / "vae")
    arguments = ["--vae", str(tmp_path / "backbone"), "--out", str(tmp_path / "new")]
    with pytest.raises(InputError, match="--batch 0"):
        command.main([str(plain), *arguments, "--batch", "0"])
    with pytest.raises(InputError, match="s3://bucket/shards: only a folder is read"):
        command.main(["s3://bucket/shards", *arguments])
    command.main([str(plain), *arguments, "--device", "cpu"])
    assert Manifest.load(tmp_path / "new").latents_of == vae_fingerprint(vae)


def test_shards_given_up_are_reported_and_others_kept(folders, vae, tmp_path):
    plain, cached = folders
    out = tmp_path / "out"
    with pytest.raises(IncompleteError, match=rf"^1 of 3 shards could not be encoded: \S+: {REASON};"):
        cache(plain, Destination(out), vae, engine=GivesUp([1]))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out.partial" / RESULT).glob("*.tar")}
    assert len(kept) == 2
    cache(plain, Destination(out), vae)
    for path in cached.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert {(out / path.name).stat().st_mtime_ns for path in kept} == set(kept.values())


def test_latents_are_moved_to_a_url(folders, vae, tmp_path, monkeypatch, store, uploads):
    plain, cached = folders
    vae.save_pretrained(tmp_path / "backbone" / "vae")
    arguments = [str(plain), "--vae", str(tmp_path / "backbone"), "--device", "cpu"]
    arguments += ["--out", "memory://bucket/latents", "--staging", str(tmp_path / "work")]
    uploads.room = 2
    with pytest.raises(InputError, match="memory://bucket/latents: cannot be written"):
        command.main(arguments)
    assert not store.exists("/bucket/latents/manifest.json")
    monkeypatch.setattr(Encoder, "__call__", lambda *_: pytest.fail("encoded again"))
    uploads.room = 1000
    command.main(arguments)
    assert {Path(name).name: store.cat_file(name) for name in store.find("/bucket/latents")} == {
        path.name: path.read_bytes() for path in cached.iterdir()
    }
    assert uploads.paths[-1] == "/bucket/latents/manifest.json"
    assert not any((tmp_path / "work").iterdir())
    with pytest.raises(InputError, match="memory://bucket/latents exists already: choose another --out"):
        command.main(arguments)
