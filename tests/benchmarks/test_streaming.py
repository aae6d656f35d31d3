import re
from pathlib import Path

import pytest

from benchmarks.streaming import main
from lightning_modules.networks.pretrained import save_backbone
from shards.builder import build
from tests.networks.toy import toy_backbone
from tests.shards.fake_source import FakeSource

STAGE = Path(__file__).parents[2] / "configs" / "stage1.yaml"


def test_command_prints_all_readers(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--sizes=[16]", "--frames=4", "--workers=1", "--seconds=0.05"])
    printed = capsys.readouterr().out
    for way in (
        "lower bound",
        "by offset",
        "loose files",
        "WebDataset",
        "by offset, 1 workers",
        "files, 1 workers",
    ):
        assert way in printed


def test_command_prints_the_data_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(FakeSource(name="synthetic"), tmp_path / "built", 0)
    save_backbone(toy_backbone(), str(tmp_path / "toy"))
    (tmp_path / "toy.yaml").write_text(
        f"model: {{init_args: {{backbone: {tmp_path / 'toy'}}}}}\n"
        f"data: {{init_args: {{sources: {{synthetic: {{urls: {tmp_path / 'built'}}}}}, image_size: 16}}}}\n"
        "trainer: {precision: 32-true, accelerator: cpu}\n"
    )
    main(["--sizes=[]", f"--configs=[{STAGE},{tmp_path / 'toy.yaml'}]", "--steps=4"])
    rate, share = re.search(
        r"([\d.]+) images/s, ([\d.]+)% of the time waiting for data", capsys.readouterr().out
    ).groups()
    assert float(rate) > 0
    assert 0 < float(share) < 100
