"""The built-in renderer: people who do not exist, from numbers."""

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
STREAM = 0x48EAD  # keeps this renderer's people apart from other uses of the same number


class SyntheticHead:
    """Anny's parametric human, painted and lit: in a studio, or anywhere and path-traced with `samples`
    paths a pixel."""

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
    """A person with a random expression in a random place and light: the expression's name and the scene."""
    name, actions = sample_expression(rng)
    environment = sample_environment(rng)
    return name, HeadScene(person, actions, environment, person.look.seed, size, samples)


def studio_instant(
    person: Person, rng: np.random.Generator, size: int, rays: int = RAYS
) -> tuple[str, LitScene]:
    """A person with a random expression in a random studio: the expression's name and the scene. `rays`
    squared go through a pixel."""
    name, actions = sample_expression(rng)
    return name, LitScene(person, actions, sample_studio(rng), person.look.seed, size, rays)


def render_on_threads(count: int) -> None:
    """How many threads Mitsuba renders on in this process (all cores unless told); images do not depend on
    it."""
    drjit.set_thread_count(count)
