"""Hostile content. Executable content creates the file `canary` when it runs."""

import pickle
import struct
from pathlib import Path

LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 1064962\n"
)
WEB_PAGE = b"<!DOCTYPE html><html><head><title>403 Forbidden</title></head><body>Forbidden</body></html>\n"
HOSTILE_VALUES = (
    None,
    True,
    [],
    {},
    "",
    "x" * 5000,
    "a\0b",
    "../../outside",
    "/etc/hostname",
    "\ud800",
    0,
    -1,
    10**9,
    10**400,
    -(2**63),
    1e308,
    float("nan"),
    float("inf"),
    [[[[]]]],
    {"class_path": "os.system", "init_args": {"command": "true"}},
)


class Executed:
    """Creates the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.canary,)


def hostile_pickles(canary: Path) -> list[bytes]:
    """Pickles that create the canary when executed, and others that exhaust memory or time."""
    command = f"touch {canary}".encode()
    return [
        pickle.dumps(Executed(canary)),
        pickle.dumps({"state_dict": Executed(canary)}, protocol=2),
        b"cos\nsystem\n(S'" + command + b"'\ntR.",
        b'cbuiltins\neval\n(S\'__import__("pathlib").Path("' + str(canary).encode() + b"\").touch()'\ntR.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNNNtR.",
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
        b"\x80\x02]" + b"(" * 100_000 + b".",
        b"\x80\x04X" + struct.pack("<I", 0xFFFFFFF0) + b"x.",
        b"\x80\x02}q\x00." + b"h\x00" * 1000,
        b"(lp0\n" + b"g0\na" * 10_000 + b".",
    ]


def hostile_yaml(canary: Path) -> list[bytes]:
    """YAML that creates the canary when tags are executed, or expands exponentially."""
    aliases = "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9))
    return [
        f'!!python/object/apply:os.system ["touch {canary}"]\n'.encode(),
        f'title: !!python/object/apply:os.system ["touch {canary}"]\n'.encode(),
        ("a0: &a0 [x]\n" + aliases).encode(),
        b"[" * 5000,
        b"title: *nowhere\n",
        b"? ? ? :\n",
        b"\xff\xfe\x00",
    ]
