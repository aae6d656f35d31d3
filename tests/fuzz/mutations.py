"""Seeded mutations of files, of their bytes and of their contents by format."""

import io
import json
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.fuzz.payloads import (
    HOSTILE_VALUES,
    LFS_POINTER,
    WEB_PAGE,
    hostile_pickles,
    hostile_yaml,
)

Mutation = Callable[[random.Random, bytes, Path], bytes]
"""From (random generator, content of a file, canary) to the new content."""

INFLATED, CLAIMED = 64 << 20, 3 << 30  # bytes
EXTREMES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80")


def mutate_bytes(draw: random.Random, data: bytes, canary: Path) -> bytes:  # noqa: ARG001
    """Flip, overwrite, cut, insert, repeat or replace bytes."""
    start = draw.randrange(len(data) + 1)
    stop = min(len(data), start + draw.choice((1, 4, 64, 4096)))
    kind = draw.randrange(9)
    if kind == 0 and data:
        flipped = bytearray(data)
        for _ in range(draw.choice((1, 1, 8, 64))):
            flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        return bytes(flipped)
    if kind == 1:
        return data[:start] + draw.randbytes(stop - start) + data[stop:]
    if kind == 2:
        return data[:start] + draw.choice(EXTREMES) + data[start + 4 :]
    if kind == 3:
        return data[:start]
    if kind == 4:
        return data[:start] + data[stop:]
    if kind == 5:
        return data[:stop] + data[start:]
    if kind == 6:
        return data + draw.randbytes(draw.choice((1, 64, 4096)))
    if kind == 7:
        return data[:start] + bytes(stop - start) + data[stop:]
    return draw.choice((b"", WEB_PAGE, LFS_POINTER, draw.randbytes(1000), b"\0" * 1000, data[::-1]))


def mutate_tree(draw: random.Random, tree: Any) -> Any:
    """A tree of lists and mappings with one value replaced, removed, renamed, repeated or added."""
    places = list(_places(tree))
    if not places:
        return draw.choice(HOSTILE_VALUES)
    parent, key = draw.choice(places)
    kind = draw.randrange(6)
    if kind <= 2:
        parent[key] = draw.choice(HOSTILE_VALUES)
    elif kind == 3:
        del parent[key]
    elif kind == 4 and isinstance(parent, dict):
        parent[draw.choice(("unknown", "", "\0", "x" * 5000))] = parent.pop(key)
    elif isinstance(parent, list):
        parent.extend([parent[key]] * draw.choice((1, 100)))
    else:
        parent["extra"] = draw.choice(HOSTILE_VALUES)
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value in a tree."""
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    places = [(tree, key) for key in keys]
    return places + [place for key in keys for place in _places(tree[key])]


def mutate_json(draw: random.Random, data: bytes, canary: Path) -> bytes:
    """Change a value of a JSON document, or its bytes."""
    kind = draw.randrange(8)
    if kind == 0:
        return mutate_bytes(draw, data, canary)
    if kind == 1:
        deep = draw.choice((b"[", b'{"a":'))
        return draw.choice(
            (deep * 100_000, data[:-1] + b"," + deep * 3000, b"\xef\xbb\xbf" + data, b"1" * 10_000)
        )
    tree = json.loads(data)
    for _ in range(draw.choice((1, 1, 3))):
        tree = mutate_tree(draw, tree)
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def mutate_yaml(draw: random.Random, data: bytes, canary: Path) -> bytes:
    """Change a value of a YAML document, or its bytes, or replace it by a hostile one."""
    kind = draw.randrange(6)
    if kind == 0:
        return mutate_bytes(draw, data, canary)
    if kind == 1:
        return draw.choice(hostile_yaml(canary))
    tree = mutate_tree(draw, yaml.safe_load(data))
    return yaml.safe_dump(tree).encode("utf-8", "surrogatepass")


def mutate_npy(draw: random.Random, data: bytes, canary: Path) -> bytes:
    """Change the header of a .npy file, or its bytes, or replace it by an array of pickled objects."""
    kind = draw.randrange(4)
    if kind == 0:
        return mutate_bytes(draw, data, canary)
    shapes = (
        "()",
        "(1000000000000,)",
        "(-1, 25)",
        "(2, 25, 1)",
        "(0, 25)",
        "(3, 24)",
        "25",
        "(2.5,)",
        "None",
    )
    types = ("|O", "<f8", "<c16", "<M8[s]", "|V100", ">f4", "<U25", "[('a', '<f4')]", "<f4" * 100)
    fortran = draw.choice(("True", "False", "1", "'x'", "__import__('os')"))
    header = (
        f"{{'descr': {draw.choice(types)!r}, 'fortran_order': {fortran}, 'shape': {draw.choice(shapes)}, }}"
    )
    if kind == 3:
        header = draw.choice(("{" * 500, "{'descr'", "", "[" * 900, "9" * 900, "{**1}"))
    encoded = header.encode()
    content = draw.choice(hostile_pickles(canary)) if "|O" in header else data[128:]
    version = draw.choice((b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"))
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(encoded))
    return b"\x93NUMPY" + version + size + encoded + content


def mutate_zip(inner: Mutation) -> Mutation:
    """Mutations of zip archives: of one member by `inner`, of member names, and of compressed sizes."""

    def mutate(draw: random.Random, data: bytes, canary: Path) -> bytes:
        kind = draw.randrange(6)
        if kind == 0:
            return mutate_bytes(draw, data, canary)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        name = draw.choice(sorted(members))
        compression = zipfile.ZIP_STORED
        if kind in (1, 2):
            members[name] = inner(draw, members[name], canary)
        elif kind == 3:
            renamed = draw.choice(("../outside", "/tmp/outside", "x", name.upper(), "a/b/c", name + "\\x"))
            members[renamed] = members.pop(name)
        elif kind == 4:
            return _inflated_member(members, name)
        else:
            del members[name]
            compression = zipfile.ZIP_DEFLATED
        return _zipped(members, compression)

    return mutate


def _zipped(members: dict[str, bytes], compression: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _inflated_member(members: dict[str, bytes], name: str) -> bytes:
    """An archive with a member that inflates to `INFLATED` zeros and claims `CLAIMED` bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for other, content in members.items():
            archive.writestr(other, bytes(INFLATED) if other == name else content)
    return file.getvalue().replace(struct.pack("<I", INFLATED), struct.pack("<I", CLAIMED))


def mutate_pickle(draw: random.Random, data: bytes, canary: Path) -> bytes:
    """Change the bytes of a pickle, or replace it or its end by a hostile one."""
    kind = draw.randrange(4)
    if kind == 0:
        return draw.choice(hostile_pickles(canary))
    if kind == 1:
        hostile = draw.choice(hostile_pickles(canary))
        return data[:-1] + hostile.removeprefix(data[:2])
    return mutate_bytes(draw, data, canary)


def mutate_checkpoint(draw: random.Random, data: bytes, canary: Path) -> bytes:
    """Mutations of a file of `torch.save`."""

    def member(draw: random.Random, content: bytes, canary: Path) -> bytes:
        mutation = mutate_pickle if content[:1] == b"\x80" else mutate_bytes
        return mutation(draw, content, canary)

    if draw.randrange(8) == 0:
        return draw.choice(hostile_pickles(canary))
    return mutate_zip(member)(draw, data, canary)


def mutate_safetensors(draw: random.Random, data: bytes, canary: Path) -> bytes:
    """Change the header of a safetensors file, or its bytes, or a tensor's values."""
    kind = draw.randrange(6)
    (size,) = struct.unpack("<Q", data[:8])
    header, values = data[8 : 8 + size], data[8 + size :]
    if kind == 0:
        return mutate_bytes(draw, data, canary)
    if kind == 1:
        return struct.pack("<Q", draw.choice((0, 1, size + 1, 1 << 40, (1 << 64) - 1))) + data[8:]
    if kind == 2:
        start = draw.randrange(max(len(values) - 4, 1))
        wrong = struct.pack("<f", draw.choice((float("nan"), float("inf"), -float("inf"))))
        return data[: 8 + size] + values[:start] + wrong + values[start + 4 :]
    changed = mutate_json(draw, header, canary)
    return struct.pack("<Q", len(changed)) + changed + values


def mutate_tar(inner: dict[str, Mutation]) -> Mutation:
    """Mutations of tar archives: of one member by its suffix, of member names, types and sizes."""

    def mutate(draw: random.Random, data: bytes, canary: Path) -> bytes:
        kind = draw.randrange(8)
        if kind in (0, 1):
            return mutate_bytes(draw, data, canary)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            members = [(info, archive.extractfile(info).read()) for info in archive if info.isfile()]
        place = draw.randrange(len(members))
        info, content = members[place]
        if kind in (2, 3, 4):
            mutation = inner.get(Path(info.name).suffix, mutate_bytes)
            members[place] = info, mutation(draw, content, canary)
        elif kind == 5:
            info.name = draw.choice(
                ("../outside.jpg", "/tmp/outside.jpg", "x" * 300, "a b", info.name.upper(), "x.y")
            )
        elif kind == 6:
            info.type = draw.choice(
                (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE)
            )
            info.linkname = draw.choice(("/etc/hostname", "../../outside", info.name))
        elif draw.random() < 0.5:
            members.insert(place, members[draw.randrange(len(members))])
        else:
            del members[place]
        return _tarred(members)

    return mutate


def _tarred(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for info, content in members:
            info.size = len(content) if info.isfile() else 0
            archive.addfile(info, io.BytesIO(content) if info.isfile() else None)
    return file.getvalue()


def mutate_photo(draw: random.Random, data: bytes, canary: Path) -> bytes:
    """Change the size in a photo's header, or its bytes."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and draw.randrange(3) == 0:
        sides = struct.pack(">II", *draw.choices((0, 1, 15, 30_000, 0x7FFFFFFF), k=2))
        head = b"IHDR" + sides + data[24:29]
        return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]
    for _ in range(draw.choice((1, 1, 2, 5))):
        data = mutate_bytes(draw, data, canary)
    return data
