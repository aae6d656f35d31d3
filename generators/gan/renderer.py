"""A 3D GAN as the renderer R(v, z) (section 3.3): identities of EG3D or PanoHead by number.

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
from core.seeding import numpy_generator
from core.workers import ONLY_WORKER, Worker
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

STREAM = 0x6A4  # key of the random stream of latents
ATTEMPTS = 8  # latents drawn for one identity until a face is detected
FACE_SIDE = 160  # side of images for face detection
CACHED = 2  # identities whose feature planes are cached


class GeneratedHead:
    """A `Renderer` of a generator's identities; feature planes are computed once for each.

    Images up to the side of the volume rendering are resized raw images, larger ones resized super-resolved
    images. Masks are the opacity of rays, which includes EG3D's background but not PanoHead's.
    """

    def __init__(
        self, options: GeneratorOptions, device: str | None = None, worker: Worker = ONLY_WORKER
    ) -> None:
        """Load the generator to `device`, by default the worker's GPU, or the CPU if there is none. Raises
        InputError."""
        self.options, self.kind = options, options.kind
        self.name: str = self.kind
        self.device = torch.device(device or _device(worker))
        self.generator: Generator = load_generator(Path(options.folder), self.device)
        self.generator.tune(getattr(torch, options.precision), options.compile)
        self._people: OrderedDict[int, Identity] = OrderedDict()
        self._warned = False

    def render(self, identity: int, labels: ArrayLike, size: int) -> Renders:
        """See `Renderer.render`. Logs a warning once if cameras are outside the generator's range. Raises
        InputError for malformed labels."""
        shared = check_labels(np.atleast_2d(np.asarray(labels)), self.name)
        if not self._warned and outside_range(shared, self.kind).any():
            self._warned = True
            warn_of_range("some cameras are", self.kind)
        cameras = torch.from_numpy(in_world(shared, self.frame)).unsqueeze(0).to(self.device)
        return as_renders(self.each_view(self.person(identity), cameras, size), size)

    @torch.inference_mode()
    def each_view(self, people: Identity, cameras: Tensor, size: int) -> list[Views]:
        """Views of identities at labels (N, K, 25) in the generator's world, each with V = 1: raw images if
        they are large enough for `size` pixels, otherwise super-resolved ones."""
        how = Rendering(self.options.resolution or None, follow=True)
        raw = size <= (how.resolution or self.generator.settings.rendering)
        each = self.generator.each_raw_view if raw else self.generator.each_view
        return list(each(people, cameras, how))

    @torch.inference_mode()
    def person(self, identity: int) -> Identity:
        """The identity with this number, cached. Raises InputError if faces are checked and none is
        detected."""
        if identity not in self._people:
            self._people[identity] = self.draw(self.latents([identity]))
        self._people.move_to_end(identity)
        while len(self._people) > CACHED:
            self._people.popitem(last=False)
        return self._people[identity]

    @torch.inference_mode()
    def latents(self, identities: Sequence[int]) -> NDArray[np.float32]:
        """The latents z (N, latent) of numbered identities. If faces are checked, each is the first draw with
        a face detected in its frontal image. Raises InputError if there is none."""
        return np.stack([self._latent(identity) for identity in identities])

    @torch.inference_mode()
    def draw(self, latents: ArrayLike) -> Identity:
        """The identities of latents (N, latent), truncated as in the options."""
        z = torch.from_numpy(np.asarray(latents, dtype=np.float32)).to(self.device)
        frontal = torch.from_numpy(own_camera(self.generator.settings)).to(self.device)
        ws = self.generator.styles(z, frontal.expand(len(z), -1), self.options.truncation)
        return self.generator.identity(ws)

    @cached_property
    def frame(self) -> HeadFrame | None:
        """The head's coordinate frame, measured on the average identity; None if labels are in the
        generator's own world. Raises InputError if no face is detected."""
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
                f"{self.options.folder}: the head's frame cannot be measured on the average identity "
                f"({error}): is it a generator of heads? frame: own uses labels as its own cameras"
            ) from error

    def frame_of(self, person: Identity, labels: NDArray[np.float32]) -> HeadFrame:
        """The coordinate frame of one identity's head, measured on views at the generator's cameras (K, 25).
        Raises NoHeadError."""
        cameras = torch.from_numpy(labels).unsqueeze(0).to(self.device)
        views = as_renders(self.each_view(person, cameras, FACE_SIDE), FACE_SIDE).images
        return measured_frame([Image.fromarray(view) for view in views], labels, self._detector)

    def _latent(self, identity: int) -> NDArray[np.float32]:
        for attempt in range(ATTEMPTS):
            rng = numpy_generator(STREAM, self.options.seed, identity, attempt)
            z = rng.standard_normal(self.generator.architecture.latent, dtype=np.float32)
            if not self.options.faces or self._has_face(self.draw(z[None])):
                return z
        raise InputError(
            f"{self.options.folder}: no face is detected in {ATTEMPTS} draws of identity {identity}: lower "
            "the truncation, or turn the check off (faces: false)"
        )

    def _has_face(self, person: Identity) -> bool:
        camera = torch.from_numpy(own_camera(self.generator.settings)).view(1, 1, -1).to(self.device)
        image = as_renders(self.each_view(person, camera, FACE_SIDE), FACE_SIDE).images[0]
        return choose(self._detector.faces(Image.fromarray(image))) is not None

    @cached_property
    def _detector(self) -> FaceDetector:
        return FaceDetector()


def as_renders(views: Iterable[Views], size: int, person: int = 0) -> Renders:
    """Views of the identity at index `person`, as 8-bit squares of `size` pixels."""
    images, masks = [], []
    for view in views:
        images.append(to_levels(view.image[person, 0], size).transpose(1, 2, 0))
        masks.append(to_levels(view.mask[person, 0] * 2 - 1, size)[0])
    return Renders(np.ascontiguousarray(np.stack(images)), np.stack(masks))


def to_levels(pixels: Tensor, size: int) -> NDArray[np.uint8]:
    """Pixels (C, s, s) in [-1, 1] as levels (C, S, S), resized with antialiasing."""
    if pixels.shape[-1] != size:
        pixels = resized(pixels.unsqueeze(0), size, antialias=True)[0]
    return pixels_to_levels(pixels).cpu().numpy()


def gpu_processes(device: str | None) -> int | None:
    """The number of worker processes for a generator: one for each GPU, 1 for a given GPU, None (one for each
    core) on a CPU."""
    if device == "cpu":
        return None
    return 1 if device else torch.cuda.device_count() or None


def _device(worker: Worker) -> str:
    """The worker's GPU if this machine has any, otherwise the CPU."""
    count = torch.cuda.device_count()
    return f"cuda:{worker.gpu(count)}" if count else "cpu"
