"""A studio's recordings in every layout of NeRSemble, written and captured once per session."""

from collections.abc import Callable
from pathlib import Path

import pytest

from shards.schema import Sample
from shards.skips import Skip
from tests.sources import studio as stage
from tests.sources.dots import PEOPLE, SEQUENCE, capture, everything
from tests.sources.studio import LAYOUTS, Studio, paint_dots


@pytest.fixture(scope="session")
def studio() -> Studio:
    return Studio()


@pytest.fixture(scope="session")
def pictures(studio: Studio) -> stage.Pictures:
    return studio.pictures(paint_dots)


class Roots(dict[str, Path]):
    """The root folder of each layout, written when it is first asked for."""

    def __init__(self, studio: Studio, pictures: stage.Pictures, factory: pytest.TempPathFactory) -> None:
        self.studio, self.pictures, self.factory = studio, pictures, factory

    def __missing__(self, layout: str) -> Path:
        self[layout] = root = self.factory.mktemp(layout)
        for person in PEOPLE:
            LAYOUTS[layout](root, person, SEQUENCE, self.studio, self.pictures)
        return root


@pytest.fixture(scope="session")
def roots(studio: Studio, pictures: stage.Pictures, tmp_path_factory: pytest.TempPathFactory) -> Roots:
    """The roots of all layouts, with two participants each."""
    return Roots(studio, pictures, tmp_path_factory)


@pytest.fixture(scope="session")
def captured(roots: Roots) -> dict[str, tuple[list[Sample], list[Skip]]]:
    """The samples and skips of each layout."""
    return {layout: everything(capture(roots[layout])) for layout in LAYOUTS}


@pytest.fixture
def fresh(tmp_path: Path, studio: Studio, pictures: stage.Pictures) -> Callable[..., Path]:
    """A function that writes a participant in the v2 layout into a new folder, for tests that damage it."""

    def write(person: str = "007", sequence: str = SEQUENCE) -> Path:
        stage.write_v2(tmp_path / "data", person, sequence, studio, pictures)
        return tmp_path / "data"

    return write
