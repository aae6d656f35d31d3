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
    """The settings that make stage 1 a toy on a tiny capture."""
    build(FakeSource(name="synthetic"), tmp_path / "built", 0)
    save_backbone(toy_backbone(), str(tmp_path / "toy"))
    overlay = tmp_path / "toy.yaml"
    overlay.write_text(
        f"model: {{init_args: {{backbone: {tmp_path / 'toy'}}}}}\n"
        f"data: {{init_args: {{sources: {{synthetic: {{urls: {tmp_path / 'built'}}}}}, image_size: 16}}}}\n"
        "trainer: {precision: 32-true, accelerator: cpu}\n"
    )
    return overlay


def test_images_and_latents_are_trained_on_and_compared(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([f"--configs=[{STAGE},{toy}]", "--steps=1", "--rounds=1"])
    printed = capsys.readouterr().out
    assert "with latents" in printed
    assert "times faster" in printed


def test_shards_that_are_no_folder_are_refused(toy: Path, tmp_path: Path) -> None:
    toy.write_text(toy.read_text().replace(str(tmp_path / "built"), str(tmp_path / "built" / "*.tar")))
    with pytest.raises(InputError, match="is not a folder built by"):
        main([f"--configs=[{STAGE},{toy}]"])
