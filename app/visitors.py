"""The folders of a page's visitors, and the guard that gives each visitor only their own files."""

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.files import whole_file

COOKIE = "visitor"
KEPT = 10  # results of a visitor
NAME = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
UPLOAD = re.compile(r"[0-9a-f]{64}")  # Gradio keeps an upload in a folder named by its SHA-256
UNSAFE = re.compile(r"[^\w.-]+")
UNLISTED = "unlisted"  # folder of files that are fetched without a cookie


@dataclass(frozen=True)
class Visitor:
    """One visitor's folder: `photos/`, and in `inputs/NAME/` and `results/NAME/` what a run took and made."""

    folder: Path

    @property
    def photos(self) -> Path:
        """The folder of the visitor's photos."""
        return self.folder / "photos"

    def results(self) -> list[Path]:
        """The folders of results, the newest first."""
        found = (path.parent for path in self.folder.glob("results/*/settings.json"))
        return sorted((path for path in found if NAME.fullmatch(path.name)), reverse=True)

    def result(self, name: str) -> Path:
        """The folder of one result. Raises InputError where the visitor has none of this name."""
        found = next((path for path in self.results() if path.name == name), None)
        if found is None:
            raise InputError(f"{name}: there is no such result any more; the last {KEPT} are kept")
        return found

    def new_run(self) -> tuple[Path, Path]:
        """A new folder of inputs, and the folder that the result will have. Only the newest `KEPT` results
        are kept."""
        for old in self.results()[KEPT - 1 :]:
            shutil.rmtree(old)
            shutil.rmtree(self.folder / "inputs" / old.name, ignore_errors=True)
        name = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        inputs = self.folder / "inputs" / name
        inputs.mkdir(parents=True)
        (self.folder / "results").mkdir(exist_ok=True)
        return inputs, self.folder / "results" / name


@dataclass(frozen=True)
class Visitors:
    """All visitors below one folder, which also has Gradio's uploads.

    A visitor is recognised by a cookie, which is a secret. The name of the visitor's folder is a hash of it.
    """

    root: Path

    @property
    def folder(self) -> Path:
        """The folder of all visitors' folders."""
        return self.root.resolve() / "visitors"

    def of(self, cookies: Mapping[str, str]) -> Visitor:
        """The visitor of a request. Raises InputError where it has no cookie."""
        secret = cookies.get(COOKIE)
        if not secret:
            raise InputError("this page needs its cookie, by which it keeps visitors' files apart: allow it")
        name = hashlib.sha256(secret.encode()).hexdigest()[:32]
        visitor = Visitor(self.folder / name)
        visitor.photos.mkdir(parents=True, exist_ok=True)
        return visitor

    def take_upload(self, upload: Path, visitor: Visitor) -> Path:
        """Move a file that Gradio has received into the visitor's photos.

        Raises InputError where it is no upload, such as another visitor's file.
        """
        place = upload.resolve().parent
        if place.parent != self.root.resolve() or not UPLOAD.fullmatch(place.name) or not upload.is_file():
            raise InputError("that file was not uploaded here: drop it again")
        stem, suffix = UNSAFE.sub("_", upload.stem)[:40], UNSAFE.sub("_", upload.suffix)[:8]
        target = visitor.photos / f"{secrets.token_hex(4)}-{stem}{suffix}"
        shutil.move(upload, target)
        shutil.rmtree(place, ignore_errors=True)
        return target


def unlisted(folder: Path, name: str) -> Path | None:
    """The unlisted file `name` of a folder, or None: whoever knows its path may fetch it without a cookie."""
    return next(folder.glob(f"{UNLISTED}/*/{name}"), None)


def add_unlisted(folder: Path, file: Path) -> None:
    """Copy a file to a path below `folder` that cannot be guessed, for viewers that send no cookies."""
    target = folder / UNLISTED / secrets.token_hex(16) / file.name
    target.parent.mkdir(parents=True)
    with whole_file(target) as partial:
        shutil.copyfile(file, partial)


class Guard:
    """ASGI middleware: gives every browser its cookie, and a file only to the visitor whose folder it is in.
    An unlisted file is given to whoever knows its path.

    Gradio would give any file of its cache to whoever knows the path, and would fetch addresses of other
    machines; both are refused.
    """

    def __init__(self, app: Any, visitors: Visitors) -> None:
        self.app = app
        self.visitors = visitors

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        cookies = request_cookies(scope)
        _, is_file, wanted = scope["path"].partition("/file=")
        if "/proxy=" in scope["path"] or (is_file and not self._may_see(wanted, cookies)):
            await _refuse(send)
        elif COOKIE in cookies:
            await self.app(scope, receive, send)
        else:
            await self.app(scope, receive, _with_cookie(send))

    def _may_see(self, wanted: str, cookies: Mapping[str, str]) -> bool:
        path = Path(wanted).resolve()
        if path.parent.parent.name == UNLISTED and path.is_relative_to(
            self.visitors.root.resolve() / "visitors"
        ):
            return True
        return bool(cookies.get(COOKIE)) and path.is_relative_to(self.visitors.of(cookies).folder.resolve())


def request_cookies(scope: Mapping[str, Any]) -> dict[str, str]:
    """The cookies of an ASGI request; none where they are malformed."""
    header = b"; ".join(value for name, value in scope["headers"] if name == b"cookie")
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(header.decode("latin-1")).items()}
    except CookieError:
        return {}


def settings_of(result: Path) -> dict[str, Any]:
    """The settings that a result was made with."""
    settings: dict[str, Any] = json.loads((result / "settings.json").read_text(encoding="utf-8"))
    return settings


def _with_cookie(send: Any) -> Any:
    cookie = f"{COOKIE}={secrets.token_urlsafe(32)}; Path=/; HttpOnly; SameSite=Strict"

    async def send_with_cookie(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", []), (b"set-cookie", cookie.encode())]
            message = message | {"headers": headers}
        await send(message)

    return send_with_cookie


async def _refuse(send: Any) -> None:
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": b"no such file"})
