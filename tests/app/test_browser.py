"""The page in a real browser: Debian's Chromium, driven by Playwright, with the shipped model.

`make test-app` runs these. A picture of each step is left in `runs/test-app/`.
"""

import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from generators.parametric.renderer import SyntheticHead
from portraits.camera_files import read_cameras
from portraits.cameras import angles, label_from_angles

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "runs/test-app"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--use-angle=swiftshader",  # WebGL without a GPU, for the viewers of meshes and splats
    "--enable-unsafe-swiftshader",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]
TIMEOUT = 300_000  # milliseconds, for slow machines


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """The page, served by the command itself."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "server.txt"
    command = [sys.executable, "-m", "diffportrait3d", "app", "--model", "checkpoints/mini"]
    command += ["--out", str(tmp_path_factory.mktemp("app")), "--port", str(port)]
    with log.open("w") as out, subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out) as server:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + TIMEOUT / 1000
        while url not in log.read_text() and server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.5)
        assert server.poll() is None, log.read_text()
        yield url
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium, or set CHROMIUM")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, address):
    """A new visitor's page. Requests to other hosts fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 860}, accept_downloads=True)
    context.set_default_timeout(TIMEOUT)
    opened, urls = context.new_page(), []
    opened.on("request", lambda request: urls.append(request.url))
    opened.goto(address)
    opened.wait_for_selector("#make")
    yield opened
    context.close()
    assert urls
    assert [url for url in urls if not url.startswith((address, "data:", "blob:"))] == []


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    """A photo of a built-in person, off-centre in front of a plain wall."""
    label = label_from_angles(*np.radians((12.0, 3.0)))
    head = Image.fromarray(SyntheticHead(samples=8).render(11, label[None], 256).images[0])
    wall = Image.new("RGB", (420, 340), head.getpixel((4, 4)))
    wall.paste(head, (110, 60))
    path = tmp_path_factory.mktemp("photos") / "holiday.jpg"
    wall.save(path, quality=95)
    return path


def save_screenshot(page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


def upload(page, *files: Path) -> None:
    page.set_input_files("#photos input[type=file]", [str(path) for path in files])


def drag(page, right: int, down: int) -> None:
    """Drag the head by these numbers of pixels."""
    page.wait_for_selector(".dp-head img:not([hidden])")
    page.locator(".dp-head").scroll_into_view_if_needed()
    box = page.locator(".dp-head").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + right, y + down, steps=8)
    page.mouse.up()
    page.wait_for_selector(".dp-head[data-exact=true]")


def drawn_share(screenshot: bytes) -> float:
    """The share of pixels, below the labels at the top, that differ from the background."""
    pixels = np.asarray(Image.open(io.BytesIO(screenshot)).convert("L")).astype(int)[40:]
    return float((abs(pixels - pixels[-1, 0]) > 20).mean())


def choose_person(page, name: str) -> None:
    page.click("#person input")
    page.get_by_role("option", name=name, exact=True).click()
    page.wait_for_selector("#seen .dp-crop")


def downloaded(page, name: str) -> bytes:
    """The bytes of a download of the result."""
    with page.expect_download() as download:
        page.click(f"#result .dp-links a:text-is('{name}')")
    return Path(download.value.path()).read_bytes()


def test_views_of_an_uploaded_photo_at_dragged_cameras(page, photo, browser, address, tmp_path):
    save_screenshot(page, "1-empty")
    upload(page, photo)
    page.wait_for_selector("#seen .dp-crop")
    yaw, pitch, _ = map(int, re.findall(r"[+-]\d+(?=°)", page.inner_text("#seen figcaption")))
    assert abs(yaw - 12) < 10
    assert abs(pitch - 3) < 10
    save_screenshot(page, "2-photo")

    page.get_by_label("dragged views").check()
    frames = set()
    for count, (right, down) in enumerate([(60, 0), (-40, 10), (-40, 0), (-40, -30)], 1):
        drag(page, right, down)
        frames.add(page.get_attribute(".dp-head img", "src"))
        page.click("#add")
        page.wait_for_function(f"document.querySelector('#chosen').innerText.startsWith('{count} view')")
    assert len(frames) == 4
    save_screenshot(page, "3-camera")

    page.fill("#steps input", "12")
    page.click("#make")
    page.wait_for_selector(".dp-progress[data-stage=sampling] .dp-previews img")
    assert re.search(r"sampling, step \d+ of 12, 4 views", page.inner_text(".dp-progress"))
    save_screenshot(page, "4-progress")
    page.wait_for_selector("#result .dp-result[data-views='4']")
    loaded = "[...document.querySelectorAll('.dp-views img')].every((view) => view.naturalWidth)"
    page.wait_for_function(loaded)
    page.wait_for_function("document.querySelector('#result video').readyState >= 2")
    page.locator(".dp-slider").fill("2")
    assert page.locator(".dp-views img:visible").get_attribute("alt") == "view 2"
    save_screenshot(page, "5-views")

    with zipfile.ZipFile(io.BytesIO(downloaded(page, "PNG"))) as archive:
        views = [np.asarray(Image.open(archive.open(name))) for name in archive.namelist()]
    assert np.shape(views) == (4, 128, 128, 3)
    assert all(np.abs(views[0].astype(int) - view).mean() > 2 for view in views[1:])
    assert downloaded(page, "MP4")[4:8] == b"ftyp"
    (tmp_path / "cameras.json").write_bytes(downloaded(page, "Cameras"))
    degrees = np.degrees(angles(read_cameras([tmp_path / "cameras.json"])))
    np.testing.assert_allclose(degrees, [(-30, 0), (-10, 5), (10, 5), (30, -10)], atol=0.01)
    settings = json.loads(downloaded(page, "Settings"))
    words = shlex.split(page.input_value("#command textarea"))
    assert words[:2] == ["diffportrait3d", "synthesize"]
    assert words[words.index("--portrait") + 1] == settings["portrait"][0]

    own = page.get_attribute("#result video", "src")
    assert page.request.get(address + own).ok
    other = browser.new_context()
    assert other.request.get(address + own).status == 404
    other.close()
    page.reload()
    page.click("#history [data-result]")
    page.wait_for_selector("#result .dp-result[data-views='4']")
    save_screenshot(page, "6-earlier")


def test_mesh_and_scenes_are_exported_and_shown(page):
    choose_person(page, "Person 2")
    page.fill("#views input", "3")
    page.fill("#steps input", "2")
    page.click("#make")
    page.click("#make3d")
    page.wait_for_selector("#result a:text-is('GLB mesh')")
    assert downloaded(page, "GLB mesh")[:4] == b"glTF"
    with zipfile.ZipFile(io.BytesIO(downloaded(page, "3D scene"))) as archive:
        assert {"transforms.json", "sparse/cameras.txt", "head.ply"} <= set(archive.namelist())
    mesh = page.locator("#mesh canvas")
    mesh.scroll_into_view_if_needed()  # the viewer draws only what is on the screen
    deadline = time.monotonic() + TIMEOUT / 1000
    while drawn_share(mesh.screenshot()) < 0.02 and time.monotonic() < deadline:
        page.wait_for_timeout(1000)
    assert drawn_share(mesh.screenshot()) > 0.02
    save_screenshot(page, "7-3d")


def test_requests_are_queued_and_cancelled(page, address):
    choose_person(page, "Person 1")
    page.fill("#steps input", "1000")  # the most that is allowed, to be cancelled before the end
    page.click("#make")
    page.wait_for_selector(".dp-progress[data-stage=sampling]")
    second = page.context.new_page()
    second.goto(address)
    choose_person(second, "Person 3")
    second.fill("#views input", "1")
    second.fill("#steps input", "1")
    second.click("#make")
    second.get_by_text("waiting, number 1 in the queue").wait_for()
    save_screenshot(second, "8-queue")
    page.bring_to_front()  # Chromium draws nothing in a tab behind another: Gradio updates nothing there
    page.click("#cancel")
    page.wait_for_selector("#status .dp-progress", state="detached")
    assert page.inner_text("#status") == "Cancelled."
    save_screenshot(page, "9-cancelled")
    second.bring_to_front()
    second.wait_for_selector("#result .dp-result[data-views='1']")
    page.bring_to_front()
    page.reload()
    page.wait_for_selector("#history [data-result]")
    assert page.locator("#history [data-result]").count() == 1


def test_text_files_are_refused_with_any_extension(page, tmp_path):
    (tmp_path / "notes.txt").write_text("no photo")
    upload(page, tmp_path / "notes.txt")
    page.get_by_text(re.compile("Invalid file type")).first.wait_for()
    save_screenshot(page, "10-text-file")
    (tmp_path / "notes.jpg").write_text("no photo")
    upload(page, tmp_path / "notes.jpg")
    refusal = page.wait_for_selector("#seen .dp-error").inner_text()
    assert re.fullmatch(r"notes.jpg: cannot be read as a photo \(none of .*\)", refusal)
    save_screenshot(page, "11-text-called-jpg")
    page.click("#make")
    page.wait_for_selector("#status :text('no portrait is chosen')")
