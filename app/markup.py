"""The page's HTML: photos, progress and results. Names given by visitors are escaped."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from app.jobs import Progress
from app.photos import Photo, framed
from app.visitors import settings_of
from lightning_modules.sampling.synthesis import SHEET, VIDEO, VIEWS
from portraits.image_folders import image_files

SHOWN_SETTINGS = ("steps", "guidance", "strength", "seed")
PREVIEW_SIDE = 128  # pixels at least, of embedded images


def message(text: str, kind: str = "note") -> str:
    """One line: a `note`, or an `error`."""
    role = "alert" if kind == "error" else "status"
    return f'<p class="dp-{kind}" role="{role}">{escape(text)}</p>'


def embedded(image: Image.Image, side: int = PREVIEW_SIDE) -> str:
    """A small image as a data URI; smaller ones are enlarged to `side`."""
    if image.width < side:
        image = image.resize((side, side * image.height // image.width), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def file_url(path: Path) -> str:
    """The address of a file in a visitor's folder."""
    return f"/gradio_api/file={quote(str(path.resolve()))}"


def photo_cards(photos: Sequence[Photo], errors: Sequence[str]) -> str:
    """Each photo with its faces, the crop and the pose; and a line for each that cannot be used."""
    cards = [_photo_card(number, photo) for number, photo in enumerate(photos)]
    return f'<div class="dp-cards">{"".join(cards)}</div>' + "".join(message(e, "error") for e in errors)


def _photo_card(number: int, photo: Photo) -> str:
    pose = "" if photo.pose is None else "yaw {:+.0f}°, pitch {:+.0f}°, roll {:+.0f}°".format(*photo.pose)
    if photo.is_crop:
        found = "a built-in person, cropped already"
    elif len(photo.boxes) > 1:
        found = f"{len(photo.boxes)} faces; face {photo.chosen + 1} is taken"
    else:
        found = "one face"
    whole = "" if photo.is_crop else f'<img src="{embedded(framed(photo))}" alt="photo {number + 1}">'
    crop = f'<img class="dp-crop" src="{embedded(photo.crop, 160)}" alt="crop of photo {number + 1}">'
    caption = f"<figcaption>{pose}<br><small>{found}</small></figcaption>"
    return f'<figure class="dp-photo">{whole}{crop}{caption}</figure>'


def progress_panel(progress: Progress) -> str:
    """A bar with counts and seconds left, and the previews; or the place in the queue."""
    share = progress.done / progress.total if progress.total else 0
    unit = "step" if progress.stage == "sampling" else "view"
    counts = f", {unit} {progress.done} of {progress.total}" if progress.total else ""
    if progress.place:
        counts = f", number {progress.place} in the queue"
    views = f", {progress.views} views" if progress.views and unit == "step" else ""
    left = "" if progress.seconds_left is None else f", {_duration(progress.seconds_left)} left"
    previews = "".join(f'<img src="{embedded(image)}" alt="preview">' for image in progress.previews)
    return (
        f'<div class="dp-progress" data-stage="{progress.stage}"><p>{progress.stage}{counts}{views}{left}</p>'
        f'<div class="dp-bar"><i style="width:{100 * share:.1f}%"></i></div>'
        f'<div class="dp-previews">{previews}</div></div>'
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def result_panel(result: Path, downloads: Mapping[str, Path]) -> str:
    """A result: its views on a slider, the video, the contact sheet, and what can be downloaded."""
    views = image_files(result / VIEWS)
    images = "".join(
        f'<img src="{file_url(path)}" alt="view {number}"{"" if number == 0 else " hidden"}>'
        for number, path in enumerate(views)
    )
    links = "".join(
        f'<a href="{file_url(path)}" download="{escape(path.name)}">{escape(name)}</a>'
        for name, path in downloads.items()
    )
    sheet = file_url(result / SHEET)
    return (
        f'<div class="dp-result" data-views="{len(views)}"><div class="dp-stage">'
        f'<figure><div class="dp-views">{images}</div>'
        f'<input type="range" class="dp-slider" min="0" max="{len(views) - 1}" value="0" aria-label="view">'
        f"<figcaption>{len(views)} views: drag the slider</figcaption></figure>"
        f'<figure><video src="{file_url(result / VIDEO)}" autoplay loop muted controls playsinline></video>'
        f"<figcaption>the same as a video</figcaption></figure></div>"
        f'<p class="dp-links">{links}</p>'
        f'<details><summary>Contact sheet</summary><img class="dp-sheet" src="{sheet}" alt="contact sheet">'
        f"</details></div>"
    )


def history_list(results: Sequence[Path]) -> str:
    """The last results as cards with their settings, each a button."""
    if not results:
        return message("What you make is listed here: the last ten results, with their settings.")
    return f'<div class="dp-history">{"".join(_history_card(path) for path in results)}</div>'


def _history_card(result: Path) -> str:
    settings: dict[str, Any] = settings_of(result)
    values = ", ".join(f"{name} {settings[name]:g}" for name in SHOWN_SETTINGS)
    views = image_files(result / VIEWS)
    where = f"{len(views)} views" + (f", {settings['trajectory']}" if settings.get("trajectory") else "")
    return (
        f'<button type="button" data-result="{escape(result.name)}">'
        f'<img src="{file_url(views[0])}" alt=""><span>{escape(where)}<br><small>{escape(values)}</small>'
        f"</span></button>"
    )
