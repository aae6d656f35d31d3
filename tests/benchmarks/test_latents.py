import re
from pathlib import Path

import pytest

from benchmarks.latents import main
from core.errors import InputError
from lightning_modules.networks.pretrained import save_backbone
from shards.builder import build
from tests.networks.toy import toy_backbone
from tests.shards.fake_source import FakeSource

STAGE = Path(__file__).parents[2] / "configs" / "stage1.yaml"


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A config layer that makes stage 1 a toy model on a tiny capture."""
    build(FakeSource(name="synthetic"), tmp_path / "built", 0)
    save_backbone(toy_backbone(), str(tmp_path / "toy"))
    overlay = tmp_path / "toy.yaml"
    overlay.write_text(
        f"model: {{init_args: {{backbone: {tmp_path / 'toy'}}}}}\n"
        f"data: {{init_args: {{sources: {{synthetic: {{urls: {tmp_path / 'built'}}}}}, image_size: 16}}}}\n"
        "trainer: {precision: 32-true, accelerator: cpu}\n"
    )
    return overlay


def test_training_on_images_and_on_latents_is_compared(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([f"--configs=[{STAGE},{toy}]", "--steps=1", "--rounds=1"])
    printed = capsys.readouterr().out
    plain, cached = map(float, re.search(r"([\d.]+) MB, with latents ([\d.]+) MB", printed).groups())
    assert cached > plain
    seconds = re.search(r"([\d.]+) s on images, ([\d.]+) s on latents in the shards, ([\d.]+) times", printed)
    assert all(float(value) > 0 for value in seconds.groups())


def test_shards_must_be_a_built_folder(toy: Path, tmp_path: Path) -> None:
    toy.write_text(toy.read_text().replace(str(tmp_path / "built"), str(tmp_path / "built" / "*.tar")))
    with pytest.raises(InputError, match="is not a folder built by"):
        main([f"--configs=[{STAGE},{toy}]"])
