"""R(v, z) by a 3D GAN (section 3.3): people drawn from EG3D or PanoHead by number.

Shape letters: K views, S image side.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from core.errors import InputError
from core.workers import this_worker
from generators.base import Renders
from generators.gan.cameras import (
    in_world,
    measured_frame,
    measuring_cameras,
    outside_range,
    own_camera,
    warn_of_range,
)
from generators.gan.folder import load_generator
from generators.gan.generator import Generator, Identity, Rendering, Views
from generators.gan.networks import resized
from generators.gan.options import GeneratorOptions
from portraits.alignment.detection import FaceDetector, choose
from portraits.alignment.head import HeadFrame, NoHeadError
from portraits.cameras import check_labels
from portraits.pixels import pixels_to_levels

STREAM = 0x6A4  # keeps these people apart from other uses of the same number
ATTEMPTS = 8  # people drawn for one number before none has a face
FACE_SIDE = 160  # of the image in which a face is looked for
REMEMBERED = 2  # identities whose planes are kept


class GeneratedHead:
    """A generator as a renderer: the same number is the same person, whose planes are computed once.

    Images up to the side that is rendered are the raw ones, larger ones are super-resolved; both are resized
    to what is asked for. Masks are what rays were stopped by: EG3D's backgrounds included, PanoHead's not.
    """

    def __init__(self, options: GeneratorOptions, device: str | None = None) -> None:
        """Opens the generator on `device`, by default on a GPU if there is one. Raises InputError."""
        self.options, self.kind = options, options.kind
        self.name: str = self.kind
        self.device = torch.device(device or _device())
        self.generator: Generator = load_generator(Path(options.folder), self.device)
        self.generator.tune(getattr(torch, options.precision), options.compile)
        self._people: OrderedDict[int, Identity] = OrderedDict()
        self._warned = False

    def render(self, identity: int, labels: ArrayLike, size: int) -> Renders:
        """See `Renderer.render`; the first camera outside the generator's range is warned of. Raises
        InputError on labels that are none."""
        shared = check_labels(np.atleast_2d(np.asarray(labels)), self.name)
        if not self._warned and outside_range(shared, self.kind).any():
            self._warned = True
            warn_of_range("some of the cameras asked for are", self.kind)
        cameras = torch.from_numpy(in_world(shared, self.frame)).unsqueeze(0).to(self.device)
        return as_renders(self.seen(self.person(identity), cameras, size), size)

    @torch.inference_mode()
    def seen(self, people: Identity, cameras: Tensor, size: int) -> list[Views]:
        """People seen by cameras (N, K, 25) in the generator's world, view by view, large enough for images
        of side `size`."""
        how = Rendering(self.options.resolution or None, follow=True)
        raw = size <= (how.resolution or self.generator.settings.rendering)
        each = self.generator.each_raw_view if raw else self.generator.each_view
        return list(each(people, cameras, how))

    @torch.inference_mode()
    def person(self, identity: int) -> Identity:
        """The person numbered `identity`, remembered for the next views. Raises InputError where the face
        check finds none."""
        if identity not in self._people:
            self._people[identity] = self.draw(self.latents([identity]))
        self._people.move_to_end(identity)
        while len(self._people) > REMEMBERED:
            self._people.popitem(last=False)
        return self._people[identity]

    @torch.inference_mode()
    def latents(self, identities: Sequence[int]) -> NDArray[np.float32]:
        """The latents z (N, latent) of numbered people: the first drawn whose frontal image has a face, where
        faces are checked. Raises InputError where none has."""
        return np.stack([self._latent(identity) for identity in identities])

    @torch.inference_mode()
    def draw(self, latents: ArrayLike) -> Identity:
        """The people of latents (N, latent), truncated as the options say."""
        z = torch.from_numpy(np.asarray(latents, dtype=np.float32)).to(self.device)
        frontal = torch.from_numpy(own_camera(self.generator.settings)).to(self.device)
        ws = self.generator.styles(z, frontal.expand(len(z), -1), self.options.truncation)
        return self.generator.identity(ws)

    @cached_property
    def frame(self) -> HeadFrame | None:
        """Where heads stand in the generator's world, measured on the average person; None for EG3D's own
        frame. Raises InputError where the average person has no face."""
        if not self.options.measures_frame():
            return None
        average = torch.zeros(1, self.generator.architecture.latent, device=self.device)
        labels = measuring_cameras(self.generator.settings)
        with torch.inference_mode():
            frontal = torch.from_numpy(own_camera(self.generator.settings)).to(self.device).unsqueeze(0)
            person = self.generator.identity(self.generator.styles(average, frontal, 0.0))
        try:
            return self.frame_of(person, labels)
        except NoHeadError as error:
            raise InputError(
                f"{self.options.folder}: no frame can be measured on its average person ({error}): is it a "
                "generator of heads? With frame: own labels are taken as they are"
            ) from error

    def frame_of(self, person: Identity, labels: NDArray[np.float32]) -> HeadFrame:
        """Where one person's head stands, by the faces in images at own cameras (K, 25). Raises
        NoHeadError."""
        cameras = torch.from_numpy(labels).unsqueeze(0).to(self.device)
        views = as_renders(self.seen(person, cameras, FACE_SIDE), FACE_SIDE).images
        return measured_frame([Image.fromarray(view) for view in views], labels, self._detector)

    def _latent(self, identity: int) -> NDArray[np.float32]:
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([STREAM, self.options.seed, identity, attempt])
            z = rng.standard_normal(self.generator.architecture.latent, dtype=np.float32)
            if not self.options.faces or self._has_face(self.draw(z[None])):
                return z
        raise InputError(
            f"{self.options.folder}: no face in {ATTEMPTS} people drawn for the number {identity}: lower the "
            "truncation, or draw without the check (faces: false)"
        )

    def _has_face(self, person: Identity) -> bool:
        camera = torch.from_numpy(own_camera(self.generator.settings)).view(1, 1, -1).to(self.device)
        image = as_renders(self.seen(person, camera, FACE_SIDE), FACE_SIDE).images[0]
        return choose(self._detector.faces(Image.fromarray(image))) is not None

    @cached_property
    def _detector(self) -> FaceDetector:
        return FaceDetector()


def as_renders(views: Iterable[Views], size: int, person: int = 0) -> Renders:
    """The views of one of the people as 8-bit squares of side `size`."""
    images, masks = [], []
    for view in views:
        images.append(to_levels(view.image[person, 0], size).transpose(1, 2, 0))
        masks.append(to_levels(view.mask[person, 0] * 2 - 1, size)[0])
    return Renders(np.ascontiguousarray(np.stack(images)), np.stack(masks))


def to_levels(pixels: Tensor, size: int) -> NDArray[np.uint8]:
    """Pixels (C, s, s) in [-1, 1] as levels (C, S, S), antialiased."""
    if pixels.shape[-1] != size:
        pixels = resized(pixels.unsqueeze(0), size, antialias=True)[0]
    return pixels_to_levels(pixels).cpu().numpy()


def check_device(device: str | None) -> None:
    """Raise InputError unless this machine has the device (None: any)."""
    if device is None or device == "cpu":
        return
    kind, _, number = device.partition(":")
    count = torch.cuda.device_count()
    if kind != "cuda" or not (number or "0").isdecimal() or int(number or 0) >= count:
        raise InputError(f"--device {device}: this machine has the devices cpu and {count} of cuda")


def gpu_processes(device: str | None) -> int | None:
    """How many processes suit a generator: one a GPU, one in all for a GPU that is named, and None, one a
    core, without one."""
    if device == "cpu":
        return None
    return 1 if device else torch.cuda.device_count() or None


def _device() -> str:
    """A GPU, if there is one; a build's processes take them in turn."""
    count = torch.cuda.device_count()
    return f"cuda:{this_worker().gpu(count)}" if count else "cpu"
