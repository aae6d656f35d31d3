"""Visitors' folders: uploads, the last ten results, and whose files are whose."""

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


def answer(visitors, path, cookie=None):
    """What a browser gets for a path: the status, and the headers."""
    sent = []

    async def page(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    headers = [] if cookie is None else [(b"cookie", f"theme=dark; {COOKIE}={cookie}".encode())]
    scope = {"type": "http", "path": path, "headers": headers}
    asyncio.run(Guard(page, visitors)(scope, None, send))
    return sent[0]["status"], dict(sent[0]["headers"])


def test_a_file_goes_to_its_own_visitor_only(visitors):
    ada = visitors.of({COOKIE: "ada"})
    own = ada.photos / "portrait.png"
    own.write_bytes(b"pixels")
    for route in ("/gradio_api/file=", "/file="):
        assert answer(visitors, f"{route}{own}", "ada")[0] == 200
        assert answer(visitors, f"{route}{own}", "bo")[0] == 404
        assert answer(visitors, f"{route}{own}")[0] == 404
        climbing = f"{visitors.of({COOKIE: 'bo'}).folder}/../{ada.folder.name}/photos/portrait.png"
        assert answer(visitors, f"{route}{climbing}", "bo")[0] == 404


def test_an_unlisted_file_goes_to_whoever_knows_its_path(visitors, tmp_path):
    folder = result(visitors.of({COOKIE: "ada"}), "20260102-030405-abcd")
    splats = folder / "head_splats.ply"
    splats.write_bytes(b"splats")
    assert unlisted(folder, splats.name) is None
    add_unlisted(folder, splats)
    path = unlisted(folder, splats.name)
    assert path.read_bytes() == b"splats"
    assert len(path.parent.name) == 32  # 128 random bits
    assert answer(visitors, f"/gradio_api/file={path}")[0] == 200
    assert answer(visitors, f"/gradio_api/file={splats}")[0] == 404
    assert answer(visitors, f"/gradio_api/file={path.parent}/../../settings.json")[0] == 404
    elsewhere = tmp_path / "unlisted/x/photo.png"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes(b"pixels")
    assert answer(visitors, f"/gradio_api/file={elsewhere}")[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://127.0.0.1:1/secret",
        "/gradio_api/proxy=http://127.0.0.1:1/secret",
    ],
)
def test_nothing_else_is_given_or_fetched(visitors, path):
    assert answer(visitors, path, "ada")[0] == 404


def test_uploads_are_not_given_to_anybody(visitors):
    assert answer(visitors, f"/gradio_api/file={upload(visitors)}", "ada")[0] == 404


def test_a_browser_gets_a_cookie_once_that_scripts_cannot_read(visitors):
    first, second = (answer(visitors, "/")[1][b"set-cookie"].decode() for _ in range(2))
    assert first != second
    assert "HttpOnly" in first
    assert "SameSite=Strict" in first
    assert b"set-cookie" not in answer(visitors, "/", "ada")[1]


def test_the_folder_does_not_show_the_cookie(visitors):
    assert "secret-of-ada" not in str(visitors.of({COOKIE: "secret-of-ada"}).folder)
    with pytest.raises(InputError, match="cookie"):
        visitors.of({})


def test_an_upload_moves_to_the_visitor_under_a_safe_name(visitors):
    ada = visitors.of({COOKIE: "ada"})
    taken = visitors.take_upload(upload(visitors, "my ph<o>to;.jpg"), ada)
    assert taken.parent == ada.photos
    assert taken.name.endswith("-my_ph_o_to_.jpg")
    assert taken.read_bytes() == b"pixels"
    assert not (visitors.root / ("ab" * 32)).exists()


def test_another_visitor_s_file_is_no_upload(visitors):
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


def test_the_last_ten_results_are_kept(visitors):
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


def test_a_result_is_found_by_its_name_only(visitors):
    ada, bo = visitors.of({COOKIE: "ada"}), visitors.of({COOKIE: "bo"})
    name = "20260101-000000-0000"
    assert result(ada, name) == ada.result(name)
    for visitor, asked in ((bo, name), (bo, f"../../{ada.folder.name}/results/{name}"), (ada, "..")):
        with pytest.raises(InputError, match="no such result"):
            visitor.result(asked)
