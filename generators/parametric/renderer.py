"""The built-in renderer: people who do not exist, from numbers."""

import drjit
import numpy as np
from numpy.typing import ArrayLike

from generators.base import Renders
from generators.parametric.environment import sample_environment
from generators.parametric.expression import sample_expression
from generators.parametric.person import Person, sample_person
from generators.parametric.scene import HeadScene

SAMPLES = 24
STREAM = 0x48EAD  # keeps this renderer's people apart from other uses of the same number


class SyntheticHead:
    """Anny's parametric human, painted, lit and path-traced with `samples` paths a pixel."""

    name = "synthetic"

    def __init__(self, samples: int = SAMPLES) -> None:
        self.samples = samples

    def render(self, identity: int, labels: ArrayLike, size: int) -> Renders:
        """See `Renderer.render`."""
        rng = np.random.default_rng([STREAM, identity])
        _, scene = capture_instant(sample_person(rng), rng, size, self.samples)
        return scene.render(labels)


def capture_instant(
    person: Person, rng: np.random.Generator, size: int, samples: int
) -> tuple[str, HeadScene]:
    """A person with a random expression in a random place and light: the expression's name and the scene."""
    name, actions = sample_expression(rng)
    environment = sample_environment(rng)
    return name, HeadScene(person, actions, environment, person.look.seed, size, samples)


def render_on_threads(count: int) -> None:
    """How many threads Mitsuba renders on in this process (all cores unless told); images do not depend on
    it."""
    drjit.set_thread_count(count)
