"""Visitors' folders: uploads, the last ten results, and who is served which files."""

import asyncio
import json

import pytest

from app.visitors import COOKIE, KEPT, Guard, Visitors, add_unlisted, unlisted
from core.errors import InputError


@pytest.fixture
def visitors(tmp_path):
    return Visitors(tmp_path)


def upload(visitors, name="a photo.jpg", content=b"pixels"):
    place = visitors.root / ("ab" * 32)
    place.mkdir(exist_ok=True)
    (place / name).write_bytes(content)
    return place / name


def result(visitor, name, seed=0):
    folder = visitor.folder / "results" / name
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"seed": seed}))
    return folder


def respond(visitors, path, cookie=None):
    """The status and the headers of the response to a request for a path."""
    sent = []

    async def page(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    headers = [] if cookie is None else [(b"cookie", f"theme=dark; {COOKIE}={cookie}".encode())]
    scope = {"type": "http", "path": path, "headers": headers}
    asyncio.run(Guard(page, visitors)(scope, None, send))
    return sent[0]["status"], dict(sent[0]["headers"])


def test_files_are_served_to_their_own_visitor_only(visitors):
    ada = visitors.of({COOKIE: "ada"})
    own = ada.photos / "portrait.png"
    own.write_bytes(b"pixels")
    for route in ("/gradio_api/file=", "/file="):
        assert respond(visitors, f"{route}{own}", "ada")[0] == 200
        assert respond(visitors, f"{route}{own}", "bo")[0] == 404
        assert respond(visitors, f"{route}{own}")[0] == 404
        traversal = f"{visitors.of({COOKIE: 'bo'}).folder}/../{ada.folder.name}/photos/portrait.png"
        assert respond(visitors, f"{route}{traversal}", "bo")[0] == 404


def test_unlisted_files_are_served_to_anyone_with_the_path(visitors, tmp_path):
    folder = result(visitors.of({COOKIE: "ada"}), "20260102-030405-abcd")
    splats = folder / "head_splats.ply"
    splats.write_bytes(b"splats")
    assert unlisted(folder, splats.name) is None
    add_unlisted(folder, splats)
    path = unlisted(folder, splats.name)
    assert path.read_bytes() == b"splats"
    assert len(path.parent.name) == 32  # 128 random bits
    assert respond(visitors, f"/gradio_api/file={path}")[0] == 200
    assert respond(visitors, f"/gradio_api/file={splats}")[0] == 404
    assert respond(visitors, f"/gradio_api/file={path.parent}/../../settings.json")[0] == 404
    elsewhere = tmp_path / "unlisted/x/photo.png"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes(b"pixels")
    assert respond(visitors, f"/gradio_api/file={elsewhere}")[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://127.0.0.1:1/secret",
        "/gradio_api/proxy=http://127.0.0.1:1/secret",
    ],
)
def test_other_files_and_urls_are_not_served(visitors, path):
    assert respond(visitors, path, "ada")[0] == 404


def test_uploads_are_not_served(visitors):
    assert respond(visitors, f"/gradio_api/file={upload(visitors)}", "ada")[0] == 404


def test_cookie_is_set_once_and_hidden_from_scripts(visitors):
    first, second = (respond(visitors, "/")[1][b"set-cookie"].decode() for _ in range(2))
    assert first != second
    assert "HttpOnly" in first
    assert "SameSite=Strict" in first
    assert b"set-cookie" not in respond(visitors, "/", "ada")[1]


def test_folder_name_does_not_reveal_the_cookie(visitors):
    assert "secret-of-ada" not in str(visitors.of({COOKIE: "secret-of-ada"}).folder)
    with pytest.raises(InputError, match="cookie"):
        visitors.of({})


def test_upload_is_moved_to_the_visitor_with_a_safe_name(visitors):
    ada = visitors.of({COOKIE: "ada"})
    moved = visitors.take_upload(upload(visitors, "my ph<o>to;.jpg"), ada)
    assert moved.parent == ada.photos
    assert moved.name.endswith("-my_ph_o_to_.jpg")
    assert moved.read_bytes() == b"pixels"
    assert not (visitors.root / ("ab" * 32)).exists()


def test_files_that_were_not_uploaded_are_refused(visitors):
    ada, bo = visitors.of({COOKIE: "ada"}), visitors.of({COOKIE: "bo"})
    own = ada.photos / "portrait.png"
    own.write_bytes(b"pixels")
    outside = visitors.root.parent / "outside.png"
    outside.write_bytes(b"pixels")
    link = upload(visitors, "link.png")
    link.unlink()
    link.symlink_to(own)
    for path in (own, outside, link, visitors.root / ("ab" * 32) / "missing.png"):
        with pytest.raises(InputError, match="was not uploaded here"):
            visitors.take_upload(path, bo)
    assert own.exists()


def test_last_ten_results_are_kept(visitors):
    ada = visitors.of({COOKIE: "ada"})
    names = [f"20260101-0000{second:02d}-0000" for second in range(KEPT + 2)]
    for name in names:
        result(ada, name)
        (ada.folder / "inputs" / name).mkdir(parents=True)
    inputs, out = ada.new_run()
    assert inputs.is_dir()
    assert not out.exists()
    assert [path.name for path in ada.results()] == names[::-1][: KEPT - 1]
    assert not (ada.folder / "inputs" / names[0]).exists()


def test_results_are_found_by_plain_names_of_their_own_visitor(visitors):
    ada, bo = visitors.of({COOKIE: "ada"}), visitors.of({COOKIE: "bo"})
    name = "20260101-000000-0000"
    assert result(ada, name) == ada.result(name)
    for visitor, given in ((bo, name), (bo, f"../../{ada.folder.name}/results/{name}"), (ada, "..")):
        with pytest.raises(InputError, match="no such result"):
            visitor.result(given)
