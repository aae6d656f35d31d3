"""The page: its controls and the functions that handle their events."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import gradio as gr

from app import markup
from app.camera import LiveCamera
from app.downloads import MESHES, downloads, shown_3d, write_3d, write_splats
from app.jobs import Job, Workers
from app.layout import DRAG, TITLE, Controls
from app.photos import (
    MAX_PHOTOS,
    Photo,
    built_in_person,
    check_photo,
    check_upload,
    choose_face,
    portrait_files,
    replaced,
)
from app.requests import (
    DRAGGED,
    FOLLOWED,
    PATH,
    PRESET,
    Cameras,
    Fixed,
    command_line,
    lora_texts,
    make_request,
    optional_number,
    optional_whole,
    preset_values,
    request_of,
)
from app.visitors import Visitor, Visitors, settings_of
from core.errors import InputError
from lightning_modules.sampling.model_summary import ModelSummary
from lightning_modules.sampling.requests import Request
from portraits.alignment.detection import FaceDetector

PORTRAIT_SIDE = 256  # least side of a built-in person's portrait in pixels
# Reads the angles in the browser, as the server may not have received the last ones yet.
DRAGGED_TO = """(chosen) => {
  const head = document.querySelector(".dp-head").dataset;
  return [chosen, `${head.yaw} ${head.pitch}`];
}"""


class Page:
    """The page of one model. Requests run on `workers`; every visitor has their own folder."""

    def __init__(
        self, fixed: Fixed, workers: Workers, visitors: Visitors, camera: LiveCamera, model: ModelSummary
    ) -> None:
        self.fixed = fixed
        self.workers = workers
        self.visitors = visitors
        self.camera = camera
        self.model = model
        self.detector = FaceDetector()
        self.jobs: dict[str, Job] = {}  # by Gradio's session, one for each open page

    def build(self) -> gr.Blocks:
        """The page as Gradio's blocks."""
        with gr.Blocks(analytics_enabled=False, title=TITLE) as blocks:
            self.controls = Controls(self._frames(), self.model, self.fixed.loras)
            self._connect(blocks, self.controls)
        return blocks

    def _connect(self, blocks: gr.Blocks, on: Controls) -> None:
        hidden: dict[str, Any] = {"api_visibility": "private"}
        seen = [on.photos, on.seen, on.face]
        checking = {"concurrency_id": "photos", "concurrency_limit": 1, **hidden}
        on.upload.upload(self.take_photos, on.upload, [*seen, on.upload], **checking)
        on.person.input(self.take_person, on.person, seen, **checking)
        on.face.input(self.take_face, [on.photos, on.face], seen, **checking)
        on.follow_upload.upload(
            self.take_poses, on.follow_upload, [on.follow, on.followed, on.follow_upload], **checking
        )
        groups = [on.path_group, on.drag_group, on.follow_group]
        on.mode.change(show_group, on.mode, groups, queue=False, **hidden)
        on.add.click(
            add_view,
            [on.chosen, on.dragged],
            [on.chosen, on.chosen_list],
            js=DRAGGED_TO,
            queue=False,
            **hidden,
        )
        on.clear.click(clear_views, None, [on.chosen, on.chosen_list], queue=False, **hidden)
        filled = [on.settings[name] for name in PRESET]
        on.preset.input(fill_preset, on.preset, filled, queue=False, **hidden)
        for name in ("seed", "identity"):
            numbers = [on.settings["seed"], on.settings["identity"]]
            on.settings[name].change(show_identity, numbers, on.widget, queue=False, **hidden)

        shown = [on.shown, on.result, on.command, on.assets, on.assets_status]
        cameras = on.cameras.values()
        run = on.make.click(
            self.run,
            {on.photos, *cameras, *on.settings.values(), on.lora_weight},
            [on.status, *shown, on.history],
            concurrency_limit=None,  # requests wait in `Workers`, where they can be cancelled
            show_progress_on=on.status,
            **hidden,
        )
        on.cancel.click(self.stop, None, on.status, queue=False, **hidden)
        selected = on.history.select(self.show_earlier, None, [*shown, on.status], **hidden)
        assets = {"concurrency_id": "3d", "concurrency_limit": 1, **hidden}
        added = on.make_3d.click(
            self.add_3d, [on.shown, on.with_splats], [on.result, on.assets_status], **assets
        )
        # A viewer ignores a file that it gets before it is visible.
        viewers = [on.mesh, on.splats]
        for event in (run, selected, added):
            placed = event.then(self.show_viewers, on.shown, viewers, **hidden)
            placed.then(self.fill_viewers, on.shown, viewers, **hidden)
        blocks.load(self.earlier, None, on.history, **hidden)
        blocks.unload(self.leave)

    # Portraits

    def take_photos(self, uploads: Sequence[str], request: gr.Request) -> tuple[Any, ...]:
        """Check uploaded photos. Errors are shown in the place of the photos that have them."""
        visitor = self.visitors.of(request.cookies)
        photos: list[Photo] = []
        errors = [f"{len(uploads)} photos: {MAX_PHOTOS} are read"] if len(uploads) > MAX_PHOTOS else []
        for upload in uploads[:MAX_PHOTOS]:
            try:
                path = self.visitors.take_upload(Path(upload), visitor)
                photos.append(check_photo(path, self.model.image_size, self.detector))
            except InputError as error:
                errors.append(str(error))
        return *self._seen(photos, errors), None

    def take_person(self, number: int, request: gr.Request) -> tuple[Any, ...]:
        """Render a built-in person."""
        path = self.visitors.of(request.cookies).photos / f"person-{number}.png"
        return self._seen([built_in_person(number, max(self.model.image_size, PORTRAIT_SIDE), path)], [])

    def take_face(self, photos: list[Photo], choice: tuple[int, int]) -> tuple[Any, ...]:
        """Crop another face of a photo."""
        number, face = choice
        try:
            photo = choose_face(photos[number], face, self.model.image_size, self.detector)
        except InputError as error:
            return self._seen(photos, [str(error)])
        return self._seen(replaced(photos, number, photo), [])

    def _seen(self, photos: list[Photo], errors: Sequence[str]) -> tuple[Any, ...]:
        choices = [
            (f"photo {number + 1}, face {face + 1}", (number, face))
            for number, photo in enumerate(photos)
            if len(photo.boxes) > 1
            for face in range(len(photo.boxes))
        ]
        faces = gr.Radio(choices=choices, visible=bool(choices), value=None)
        return photos, markup.photo_cards(photos, errors), faces

    # Cameras

    def _frames(self) -> Callable[[list[float]], str]:
        def frame(place: list[float]) -> str:
            """The head at yaw, pitch and of an identity, as a data URI."""
            yaw, pitch, identity = place
            return markup.embedded(self.camera.frame(float(yaw), float(pitch), int(identity)))

        return frame

    def take_poses(self, uploads: Sequence[str], request: gr.Request) -> tuple[Any, ...]:
        """Check the photos whose cameras the views are to have."""
        visitor = self.visitors.of(request.cookies)
        paths: list[Path] = []
        try:
            for upload in uploads:
                path = self.visitors.take_upload(Path(upload), visitor)
                check_upload(path)
                paths.append(path)
        except InputError as error:
            return [], markup.message(str(error), "error"), None
        return paths, markup.message(f"{len(paths)} poses are followed"), None

    # Views

    def run(self, values: dict[Any, Any], request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Generate the views, yielding progress for the page."""
        unchanged = (gr.skip(),) * 6
        try:
            visitor = self.visitors.of(request.cookies)
            job = self.workers.submit(self._request(values, visitor))
            self.jobs[str(request.session_hash)] = job
            for progress in job.follow():
                yield markup.progress_panel(progress), *unchanged
            result = job.result()
        except CancelledError:
            yield markup.message("Cancelled."), *unchanged
            return
        except InputError as error:
            yield markup.message(str(error), "error"), *unchanged
            return
        yield markup.message("Done."), *self._show(result), markup.history_list(visitor.results())

    def _request(self, values: Mapping[Any, Any], visitor: Visitor) -> Request:
        on = self.controls
        if not values[on.photos]:
            raise InputError("no portrait is chosen: drop a photo, or choose a built-in person")
        given = {name: values[control] for name, control in on.cameras.items()}
        given |= {name: optional_number(name, given[name]) for name in ("yaw", "pitch")}
        settings = {name: values[control] for name, control in on.settings.items()}
        settings |= {name: optional_whole(name, settings[name]) for name in ("identity", "overlap")}
        settings["lora"] = lora_texts(settings["lora"], values[on.lora_weight])
        cameras = Cameras(**given)
        folder, out = visitor.new_run()
        portrait, align = portrait_files(values[on.photos], folder)
        return make_request(self.fixed, portrait, align, cameras.options(folder), settings, out)

    def stop(self, request: gr.Request) -> Any:
        """Cancel this page's request; `run` then yields the last message."""
        job = self.jobs.pop(str(request.session_hash), None)
        if job is None or job.future.done():
            return markup.message("Nothing is under way.")
        job.cancel()
        return gr.skip()

    def leave(self, request: gr.Request) -> None:
        """Cancel the request of a closed page."""
        self.stop(request)

    # Results

    def _show(self, result: Path) -> tuple[Any, ...]:
        command = command_line(again(result))
        return (
            result.name,
            markup.result_panel(result, downloads(result)),
            gr.Textbox(command, visible=True),
            gr.Accordion(visible=True),
            "",
        )

    def earlier(self, request: gr.Request) -> str:
        """The visitor's last results."""
        return markup.history_list(self.visitors.of(request.cookies).results())

    def show_earlier(self, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """Show one of the visitor's last results."""
        try:
            result = self.visitors.of(request.cookies).result(str(event.name))
        except InputError as error:
            return *(gr.skip() for _ in range(5)), markup.message(str(error), "error")
        return *self._show(result), markup.message("An earlier result.")

    def add_3d(self, name: str, splats: bool, request: gr.Request) -> tuple[Any, ...]:
        """Write the 3D files of the result on display."""
        try:
            result = self.visitors.of(request.cookies).result(name)
            write_3d(result, MESHES if self.model.has_noise_prior else ())
            if splats:
                write_splats(result)
        except InputError as error:
            return gr.skip(), markup.message(str(error), "error")
        return markup.result_panel(result, downloads(result)), markup.message("See the downloads.")

    def fill_viewers(self, name: str, request: gr.Request) -> tuple[str | None, str | None]:
        """The files of the mesh and the 3D Gaussians of the result on display; None if they were not made."""
        return shown_3d(self.visitors.of(request.cookies).result(name)) if name else (None, None)

    def show_viewers(self, name: str, request: gr.Request) -> list[Any]:
        """Show the viewers of the mesh and the 3D Gaussians if these were made."""
        return [gr.Model3D(visible=file is not None) for file in self.fill_viewers(name, request)]


def again(result: Path) -> Request:
    """The request of a result, with another output folder."""
    settings: Mapping[str, Any] = settings_of(result)
    return request_of({**settings, "out": f"{result.name}-again"})


def show_group(mode: str) -> list[Any]:
    """Show the controls for one way of choosing cameras."""
    return [gr.Group(visible=mode == name) for name in (PATH, DRAGGED, FOLLOWED)]


def add_view(chosen: list[tuple[float, float]], dragged: str) -> tuple[Any, str]:
    """Add the dragged view, "yaw pitch" in degrees, to the chosen ones."""
    yaw, pitch = (float(angle) for angle in dragged.split())
    pairs = [*chosen, (yaw, pitch)]
    listed = "; ".join(f"yaw {yaw:+.0f}°, pitch {pitch:+.0f}°" for yaw, pitch in pairs)
    return pairs, markup.message(f"{len(pairs)} view{'s' if len(pairs) > 1 else ''}: {listed}")


def clear_views() -> tuple[Any, str]:
    """Remove all chosen views. Returns the empty list, and the message below it."""
    return [], markup.message(DRAG)


def fill_preset(name: str) -> list[Any]:
    """The settings of a preset."""
    return list(preset_values(name).values())


def show_identity(seed: int | None, identity: str) -> Any:
    """Show the person of the condition images in the widget."""
    number = int(identity) if identity.strip().isdecimal() else int(seed or 0)
    return gr.HTML(identity=number)
