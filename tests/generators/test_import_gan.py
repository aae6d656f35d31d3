"""Import of published network pickles: what is read, what is refused, and that nothing is executed."""

import io
import os
import pickle
import struct
import subprocess

import pytest
import torch

from core.errors import InputError, one_line
from generators.gan.checkpoint import SUPERRESOLUTIONS, generator_of
from generators.gan.folder import load_generator
from generators.gan.pickles import DAMAGE, StoredTensor, read_storage
from generators.import_gan import main
from tests.generators.network_pickles import EasyDict, Persistent, write_network
from tests.generators.toy_generators import toy_generator, toy_settings


@pytest.fixture(autouse=True)
def toy_sides(monkeypatch):
    """Let the toy's super-resolution expect renderings of 16×16 pixels."""
    monkeypatch.setitem(SUPERRESOLUTIONS, "SuperresolutionHybrid8XDC", (16, False))


@pytest.mark.parametrize("kind", ["eg3d", "panohead"])
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_network_pickle_is_imported(kind, protocol, tmp_path, monkeypatch, capsys):
    tensors = write_network(tmp_path / "net.pkl", kind, monkeypatch, protocol=protocol)
    main([str(tmp_path / "net.pkl"), "--out", str(tmp_path / "gan")])
    assert kind in capsys.readouterr().out
    generator = load_generator(tmp_path / "gan")
    assert generator.settings == toy_settings(kind)
    state = generator.state_dict()
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[name], x) for name, x in tensors.items())
    twin = toy_generator(kind)
    w = torch.randn(1, twin.backbone.synthesis.styles, 8)
    assert torch.equal(generator.identity(w).planes, twin.identity(w).planes)


def test_half_precision_network_is_imported_as_float32(tmp_path, monkeypatch):
    """The clamps of layers trained in float16 are kept."""
    clamped = {f"superresolution.block{n}.conv1:clamp": 256 for n in (0, 1)}
    path = tmp_path / "net.pkl"
    tensors = write_network(path, "panohead", monkeypatch, dtype=torch.float16, attributes=clamped)
    main([str(path), "--out", str(tmp_path / "gan")])
    generator = load_generator(tmp_path / "gan")
    assert {x.dtype for x in generator.state_dict().values()} == {torch.float32}
    assert all(torch.equal(generator.state_dict()[name], x.float()) for name, x in tensors.items())
    for block in (generator.superresolution.block0, generator.superresolution.block1):
        assert block.conv0.clamp == block.conv1.clamp == block.torgb.clamp == 256
    assert generator.backbone.synthesis.b8.conv1.clamp is None


def test_old_numpy_module_names_are_read(tmp_path, monkeypatch):
    path = tmp_path / "net.pkl"
    write_network(path, "eg3d", monkeypatch, protocol=2)
    new = path.read_bytes()
    old = new.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert old != new
    path.write_bytes(old)
    generator_of(path)


def test_rendering_settings_of_the_pickle_are_kept(tmp_path, monkeypatch):
    path = tmp_path / "net.pkl"
    attributes = {"superresolution.block0.conv1:clamp": 256, "decoder.net.0": {"bias_gain": 2.0}}
    write_network(
        path,
        "eg3d",
        monkeypatch,
        attributes=attributes,
        c_gen_conditioning_zero=True,
        box_warp=1.5,
        depth_resolution=7,
        avg_camera_pivot=[0, 0, -0.06],
        superresolution_noise_mode="const",
        white_back=True,
    )
    settings = generator_of(path).settings
    assert settings.clamps == {"superresolution.block0": 256.0}
    assert (settings.decoder_rate, settings.label_scale, settings.box, settings.coarse) == (2.0, 0.0, 1.5, 7)
    assert settings.pivot == (0.0, 0.0, -0.06)
    assert settings.superresolution_noise
    assert settings.white_background


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ray_start": "auto"}, "ray_start is 'auto'"),
        ({"disparity_space_sampling": True}, "disparity_space_sampling is True"),
        ({"clamp_mode": "relu"}, "clamp_mode is 'relu'"),
        ({"superresolution_noise_mode": "random"}, "superresolution_noise_mode is 'random'"),
        ({"fancy_fog": 1}, "unsupported rendering settings: .fancy_fog"),
        ({"avg_camera_radius": None}, "G_ema: radius: Input should be a valid number"),
        ({"avg_camera_pivot": [0, "x", 0]}, "G_ema: pivot.1: Input should be a valid number"),
        ({"depth_resolution": 10**9}, "rendering settings out of range: coarse 1000000000"),
        ({"depth_resolution": 10**400}, "range: coarse 10000000000000000000"),
        ({"box_warp": float("nan")}, "G_ema: box: Input should be a finite number"),
        ({"c_scale": "one"}, "G_ema: label_scale: Input should be a valid number"),
    ],
)
def test_unsupported_settings_are_named(options, message, tmp_path, monkeypatch):
    write_network(tmp_path / "net.pkl", "eg3d", monkeypatch, **options)
    with pytest.raises(InputError, match=message):
        generator_of(tmp_path / "net.pkl")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"": {"img_resolution": 1024}}, "img_resolution is 1024, its layers output 64x64"),
        ({"backbone.synthesis.b8": {"architecture": "resnet"}}, "b8 has architecture .resnet"),
        ({"backbone.mapping.fc0": {"bias_gain": 1.0}}, "fc0 has bias_gain 1.0"),
        ({"backbone.mapping.fc0": {"bias_gain": None}}, "fc0 has bias_gain None"),
        ({"superresolution.block0.conv1:clamp": "x"}, "G_ema: clamps.superresolution.block0"),
    ],
)
def test_unsupported_layers_are_named(attributes, message, tmp_path, monkeypatch):
    write_network(tmp_path / "net.pkl", "eg3d", monkeypatch, attributes=attributes)
    with pytest.raises(InputError, match=message):
        generator_of(tmp_path / "net.pkl")


def test_unsupported_super_resolution_is_named(tmp_path, monkeypatch):
    write_network(tmp_path / "net.pkl", "eg3d", monkeypatch)
    monkeypatch.delitem(SUPERRESOLUTIONS, "SuperresolutionHybrid8XDC")
    with pytest.raises(InputError, match="its super-resolution is SuperresolutionHybrid8XDC; supported: "):
        generator_of(tmp_path / "net.pkl")


def test_other_networks_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "net.pkl"
    write_network(path, "eg3d", monkeypatch)
    stylegan = Persistent("Generator", "", {"_modules": {}, "_parameters": {}, "_buffers": {}})
    path.write_bytes(pickle.dumps({"G_ema": stylegan}))
    with pytest.raises(InputError, match="neither EG3D nor PanoHead"):
        generator_of(path)
    path.write_bytes(pickle.dumps({"D": stylegan}))
    with pytest.raises(InputError, match=r"no network G_ema, but \[.D.\]"):
        generator_of(path)
    path.write_bytes(pickle.dumps((EasyDict(), EasyDict())))
    with pytest.raises(InputError, match="but a tuple"):
        generator_of(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_files_are_refused(share, tmp_path, monkeypatch):
    path = tmp_path / "net.pkl"
    write_network(path, "eg3d", monkeypatch)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match="truncated, or no network pickle"):
        generator_of(path)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.pkl").write_text("not a pickle")
    torch.save({"a": torch.zeros(1)}, tmp_path / "b.pkl")
    for name in ("a.pkl", "b.pkl", "c.pkl"):
        with pytest.raises(InputError, match=r"(truncated|cannot be read|a PyTorch or zip archive)"):
            generator_of(tmp_path / name)


class Hostile:
    """Calls a function with arguments when it is unpickled."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ((os.system, "touch {mark}"), "posix.system"),
        ((eval, "open({mark!r}, 'w')"), "builtins.eval"),
        ((getattr, os, "system"), "builtins.getattr"),
        ((subprocess.Popen, ["touch", "{mark}"]), "subprocess.Popen"),
        ((torch.load, "{mark}"), "torch.serialization.load"),
        ((io.open, "{mark}", "w"), "io.open"),
    ],
)
def test_hostile_pickles_execute_nothing(call, name, tmp_path):
    mark = str(tmp_path / "mark")
    call = tuple(part.format(mark=mark) if isinstance(part, str) else part for part in call)
    path = tmp_path / "net.pkl"
    if call[0] is getattr:
        path.write_bytes(b"cbuiltins\ngetattr\n(cposix\nsystem\nS'x'\ntR.")
    else:
        path.write_bytes(pickle.dumps({"G_ema": Hostile(*call)}))
    with pytest.raises(InputError, match=f"it asks for {name}"):
        generator_of(path)
    assert not (tmp_path / "mark").exists()


def test_source_in_a_network_is_not_executed(tmp_path, monkeypatch):
    mark = tmp_path / "mark"
    write_network(tmp_path / "net.pkl", "eg3d", monkeypatch, source=f"open({str(mark)!r}, 'w')")
    generator_of(tmp_path / "net.pkl")
    assert not mark.exists()


def stored(x):
    """A tensor's storage as written by `torch.Storage.__reduce__`."""
    buffer = io.BytesIO()
    storage = torch.storage.TypedStorage(wrap_storage=x.untyped_storage(), dtype=x.dtype, _internal=True)
    torch.save(storage, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_storages_are_read_like_torch(dtype):
    values = torch.arange(6).to(dtype)
    strided = StoredTensor(stored(values), 1, (2, 2), (1, 2)).read()
    assert torch.equal(strided, values[[1, 3, 2, 4]].view(2, 2))
    assert torch.equal(read_storage(stored(torch.empty(0, dtype=dtype))), torch.empty(0, dtype=dtype))


def test_invalid_storages_are_refused():
    class Storage:
        def __reduce__(self):
            return eval, ("1",)

    buffer = io.BytesIO()
    torch.save(Storage(), buffer, _use_new_zipfile_serialization=False)
    archive = io.BytesIO()
    torch.save(torch.zeros(2), archive)
    whole = stored(torch.zeros(4))
    for data in (buffer.getvalue(), archive.getvalue(), whole[:-1], whole[:-17], whole[:40], b""):
        with pytest.raises(DAMAGE):
            read_storage(data)
    with pytest.raises(pickle.UnpicklingError, match="larger than its storage"):
        StoredTensor(whole, 0, (1 << 20, 1 << 20), (0, 0)).read()
    with pytest.raises(RuntimeError):
        StoredTensor(whole, 3, (4,), (1,)).read()


def test_exponentially_nested_modules_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "net.pkl"
    write_network(path, "eg3d", monkeypatch)
    state = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    loop = Persistent("Module", "", state)
    for _ in range(20):
        loop = Persistent("Module", "", {**state, "_modules": {"a": loop, "b": loop}})
    path.write_bytes(pickle.dumps({"G_ema": loop}))
    with pytest.raises(InputError, match="more than 10000 modules"):
        generator_of(path)


def test_modules_and_tensors_need_string_names(tmp_path, monkeypatch):
    path = tmp_path / "net.pkl"
    write_network(path, "eg3d", monkeypatch)
    for table in ("_modules", "_parameters"):
        state = {"_parameters": {}, "_buffers": {}, "_modules": {}, table: {7: None}}
        path.write_bytes(pickle.dumps({"G_ema": Persistent("Module", "", state)}))
        with pytest.raises(InputError, match=f"{table} of a Module is not a mapping of names"):
            generator_of(path)
    path.write_bytes(pickle.dumps({"G_ema": Persistent("Module", "", state), 7: None}))
    with pytest.raises(InputError, match="not a pickle of networks by name"):
        generator_of(path)


TEXT = b"X" + struct.pack("<I", 1 << 16) + b"a" * (1 << 16) + b"q\x00"  # memoised as 0
INFLATING = {
    "dictionaries": b"}0" * 10_000 + b"}.",
    "encoded text": TEXT + b"c_codecs\nencode\nq\x010(h\x01h\x00X\x06\x00\x00\x00latin1\x86R" * 400 + b"l.",
    "sets": b"]q\x00(" + b"K\x01" * 60_000 + b"e(cbuiltins\nset\nq\x010" + b"h\x01h\x00\x85R" * 400 + b"l.",
}


@pytest.mark.parametrize("how", INFLATING)
def test_inflating_pickles_are_refused(how, tmp_path, monkeypatch):
    """A few bytes create an object, or a copy of a memoised one."""
    monkeypatch.setattr("generators.gan.pickles.MAX_OPERATIONS", 10_000)
    (tmp_path / "net.pkl").write_bytes(b"\x80\x02" + INFLATING[how])
    with pytest.raises(InputError, match=r"more than its size|more than 10,000 values"):
        generator_of(tmp_path / "net.pkl")


def test_tensors_larger_than_the_file_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "net.pkl"
    write_network(path, "eg3d", monkeypatch)
    shared = torch.zeros(1 << 16)
    state = {"_parameters": {f"x{n}": shared for n in range(1000)}, "_buffers": {}, "_modules": {}}
    path.write_bytes(pickle.dumps({"G_ema": Persistent("Module", "", state)}))
    assert path.stat().st_size < 1 << 19
    with pytest.raises(InputError, match="its tensors are larger than the file"):
        generator_of(path)


def test_import_of_a_missing_file_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"), one_line():
        main([str(tmp_path / "none.pkl"), "--out", str(tmp_path / "x")])
    assert (
        capsys.readouterr().err
        == f"error: {tmp_path / 'none.pkl'}: cannot be read (No such file or directory)\n"
    )
    assert not (tmp_path / "x").exists()
