"""The built-in renderer of synthetic people."""

from typing import Literal

import drjit
import numpy as np
from numpy.typing import ArrayLike

from generators.base import Renders
from generators.parametric.environment import sample_environment
from generators.parametric.expression import sample_expression
from generators.parametric.lit_scene import LitScene
from generators.parametric.person import Person, sample_person
from generators.parametric.scene import HeadScene
from generators.parametric.studio import sample_studio

Place = Literal["studio", "anywhere"]
SAMPLES = 24
RAYS, CONDITION_RAYS = 3, 2  # along a pixel's side
STREAM = 0x48EAD  # key of the random stream of identities


class SyntheticHead:
    """A `Renderer` of synthetic people, either in a studio, or anywhere and path-traced with `samples` paths
    per pixel."""

    name = "synthetic"

    def __init__(self, samples: int = SAMPLES, place: Place = "anywhere") -> None:
        self.samples = samples
        self.place: Place = place

    def render(self, identity: int, labels: ArrayLike, size: int) -> Renders:
        """See `Renderer.render`."""
        return self.scene(identity, size).render(labels)

    def scene(self, identity: int, size: int) -> HeadScene | LitScene:
        """The person numbered `identity` for images of `size` pixels: `render` builds this anew at each
        call, which costs as much as a few images."""
        rng = np.random.default_rng([STREAM, identity])
        person = sample_person(rng)
        if self.place == "studio":
            return studio_instant(person, rng, size)[1]
        return capture_instant(person, rng, size, self.samples)[1]


def capture_instant(
    person: Person, rng: np.random.Generator, size: int, samples: int
) -> tuple[str, HeadScene]:
    """Draw an expression and an environment for a person; returns the expression's name and the scene."""
    name, actions = sample_expression(rng)
    environment = sample_environment(rng)
    return name, HeadScene(person, actions, environment, person.look.seed, size, samples)


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
