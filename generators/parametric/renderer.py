"""The built-in renderer of synthetic people."""

import drjit
import numpy as np
from numpy.typing import ArrayLike

from core.seeding import numpy_generator
from generators.base import Light, Place, Renders
from generators.parametric.environment import sample_environment
from generators.parametric.expression import sample_expression
from generators.parametric.lit_scene import LitScene
from generators.parametric.person import Person, sample_person
from generators.parametric.scene import HeadScene
from generators.parametric.studio import sample_studio

SAMPLES = 24
RAYS, CONDITION_RAYS = 3, 2  # along a pixel's side
CONDITION_NOISE = 33.0  # dB; what path tracing reaches at best with SAMPLES paths at 256 pixels
STREAM = 0x48EAD  # key of the random stream of identities


class SyntheticHead:
    """A `Renderer` of synthetic people, in a studio or anywhere.

    Light is traced with `samples` paths per pixel for each image, or baked into a person once; in a studio it
    is always baked. Baked images of people anywhere have as few rays as keep their noise, the PSNR of two
    renders with other seeds, at `noise` dB or better.
    """

    name = "synthetic"

    def __init__(
        self,
        samples: int = SAMPLES,
        place: Place = "anywhere",
        light: Light = "traced",
        noise: float = CONDITION_NOISE,
    ) -> None:
        self.samples = samples
        self.place: Place = place
        self.light: Light = light
        self.noise = noise

    def render(self, identity: int, labels: ArrayLike, size: int) -> Renders:
        """See `Renderer.render`."""
        return self.scene(identity, size).render(labels)

    def scene(self, identity: int, size: int) -> HeadScene | LitScene:
        """The person numbered `identity` for images of `size` pixels: `render` builds this anew at each
        call, which costs as much as a few images."""
        rng = numpy_generator(STREAM, identity)
        person = sample_person(rng)
        if self.place == "studio":
            return studio_instant(person, rng, size)[1]
        if self.light == "baked":
            scene = baked_instant(person, rng, size)
            scene.cast_for(self.noise)
            return scene
        return capture_instant(person, rng, size, self.samples)[1]


def capture_instant(
    person: Person, rng: np.random.Generator, size: int, samples: int
) -> tuple[str, HeadScene]:
    """Draw an expression and an environment for a person; returns the expression's name and the scene."""
    name, actions = sample_expression(rng)
    environment = sample_environment(rng)
    return name, HeadScene(person, actions, environment, person.look.seed, size, samples)


def baked_instant(person: Person, rng: np.random.Generator, size: int) -> LitScene:
    """The scene of `capture_instant` with baked light."""
    _, actions = sample_expression(rng)
    return LitScene(person, actions, sample_environment(rng), person.look.seed, size)


def studio_instant(
    person: Person, rng: np.random.Generator, size: int, rays: int = RAYS
) -> tuple[str, LitScene]:
    """Draw an expression and a studio for a person; returns the expression's name and the scene, with `rays`
    squared rays per pixel."""
    name, actions = sample_expression(rng)
    return name, LitScene(person, actions, sample_studio(rng), person.look.seed, size, rays)


def render_on_threads(count: int) -> None:
    """Set the number of Mitsuba's threads in this process, by default all cores; images do not depend on
    it."""
    drjit.set_thread_count(count)
