import json

import numpy as np
import pytest

from core.errors import InputError
from shards import schema
from shards.schema import SampleError, SampleMeta, decode, encode
from tests.shards.fake_source import make_sample


def test_sample_round_trip() -> None:
    sample = make_sample(masks=True)
    back = decode(encode(sample))
    assert back.meta == sample.meta
    np.testing.assert_array_equal(back.cameras, sample.cameras)
    np.testing.assert_array_equal(back.masks, sample.masks)
    for name in ("views", "conditions"):
        difference = getattr(back, name).astype(int) - getattr(sample, name)
        assert np.abs(difference).max() <= 3


def test_encoding_is_deterministic() -> None:
    assert encode(make_sample()) == encode(make_sample())


def test_decode_reads_only_the_chosen_views() -> None:
    sample = make_sample()
    members = {name: data for name, data in encode(sample).items() if name not in ("view_00.jpg",)}
    members["view_00.jpg"] = b"not an image, not chosen"
    members["extra.pkl"] = b"cos\nsystem\n(S'false'\ntR."
    back = decode(members, views=[5, 2], size=16)
    np.testing.assert_array_equal(back.cameras, sample.cameras[[5, 2]])
    assert np.abs(back.views.astype(int) - sample.views[[5, 2]]).max() <= 3


def damaged(change: dict[str, bytes | None]) -> dict[str, bytes]:
    members = {**encode(make_sample()), **change}
    return {name: data for name, data in members.items() if data is not None}


def npy(array: np.ndarray) -> bytes:
    import io

    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def meta(**change: object) -> bytes:
    return json.dumps({**json.loads(encode(make_sample())["meta.json"]), **change}).encode()


VIEW = encode(make_sample())["view_00.jpg"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cameras.npy": None}, "no cameras.npy"),
        ({"condition_03.jpg": None}, "no condition_03.jpg"),
        ({"view_04.jpg": None}, "no view_11.jpg|no view_04.jpg"),
        ({"view_00.jpg": VIEW[: len(VIEW) // 2]}, "image"),
        ({"view_00.jpg": b""}, "not a JPEG"),
        ({"view_00.jpg": encode(make_sample(size=32))["view_00.jpg"]}, "32x32"),
        ({"cameras.npy": b"zz"}, "cameras.npy"),
        ({"cameras.npy": npy(np.zeros((12, 25), np.float32))}, "camera 0"),
        ({"cameras.npy": npy(np.zeros((12, 25)))}, "float64"),
        ({"cameras.npy": npy(np.zeros((3, 25), np.float32))}, r"\(3, 25\)"),
        ({"cameras.npy": npy(np.array([[print]], object))}, "object"),
        ({"cameras.npy": encode(make_sample())["cameras.npy"][:-1]}, r"in \d+ bytes"),
        ({"meta.json": b"{"}, "not JSON"),
        ({"meta.json": b"[]"}, "not an object"),
        ({"meta.json": meta(surprise=1)}, "surprise"),
        ({"meta.json": meta(identity="../../etc")}, "identity"),
        ({"meta.json": b" " * (schema.MAX_META_BYTES + 1)}, "bytes"),
    ],
)
def test_damaged_members_are_named(change: dict[str, bytes | None], message: str) -> None:
    with pytest.raises(SampleError, match=message):
        decode(damaged(change), size=16)


def test_npy_header_of_a_huge_array_allocates_nothing() -> None:
    header = npy(np.zeros((12, 25), np.float32))[:128].replace(b"(12, 25), }        ", b"(900000000000, 25)}")
    with pytest.raises(SampleError, match="npy"):
        decode(damaged({"cameras.npy": header}))


def test_unknown_schema_version_is_an_input_error() -> None:
    with pytest.raises(InputError, match="schema version 2"):
        decode(damaged({"meta.json": meta(schema_version=2)}))


@pytest.mark.parametrize("identity", ["a.b", "a/b", "", "-a", "a b", "x" * 80])
def test_invalid_identity_names_are_refused(identity: str) -> None:
    with pytest.raises(InputError):
        SampleMeta("fake", identity, "train", "still", "0", "eg3d", "CC0-1.0")


def test_unknown_split_is_refused() -> None:
    with pytest.raises(InputError, match="validation"):
        make_sample(split="validation")


def test_mismatched_shapes_are_refused() -> None:
    sample = make_sample()
    with pytest.raises(InputError, match="11 cameras for 12 views"):
        schema.Sample(sample.meta, sample.views, sample.conditions, sample.cameras[:-1])
    with pytest.raises(InputError, match="conditions"):
        schema.Sample(sample.meta, sample.views, sample.conditions[:, :8], sample.cameras)


def test_latents_are_passed_through_undecoded() -> None:
    sample = make_sample()
    with_latents = schema.Sample(
        sample.meta, sample.views, sample.conditions, sample.cameras, latents=b"opaque"
    )
    members = encode(with_latents)
    assert members["latents.npz"] == b"opaque"
    assert decode(members).latents == b"opaque"
