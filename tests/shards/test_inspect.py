import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from portraits.contact_sheet import CAPTION, MARGIN
from shards.builder import build
from shards.inspect import main
from shards.sample_sheet import sample_sheet
from tests.shards.fake_source import FakeSource, make_sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build(FakeSource(), tmp_path / "out", 0, max_shard_mb=0.095)
    return tmp_path / "out"


def test_inspect_prints_counts_and_draws_a_sheet(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "new" / "sheet.png"
    main([str(folder), "--sheet", str(sheet), "--sheet_frames", "3"])
    printed = capsys.readouterr().out
    assert "fake, 16x16 pixels, 12 views, schema 1" in printed
    assert "identities=3" in printed
    for split in ("train", "val", "test"):
        assert f"{split:5}  fake: 6 frames, 3 identities, 72 views; 3 shards" in printed
    with Image.open(sheet) as image:
        assert image.width > 8 * 128


def test_inspect_works_without_a_manifest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "manifest.json").unlink()
    main([str(folder / "val-*.tar")])
    assert capsys.readouterr().out.splitlines() == [
        "val    fake: 6 frames, 3 identities, 72 views; 3 shards, 0.2 MB"
    ]


def test_inspect_finds_damaged_and_missing_shards(folder: Path) -> None:
    with (folder / "val-000001.tar").open("r+b") as file:
        file.seek(5000)
        file.write(b"\0\1\2")
    (folder / "test-000000.tar").unlink()
    with pytest.raises(InputError, match="2 of 9 shards") as error:
        main([str(folder)])
    assert "val-000001.tar has another checksum" in str(error.value)
    assert "test-000000.tar is missing" in str(error.value)


def test_sheet_shows_views_by_yaw() -> None:
    sample = make_sample(views=12)
    sheet = np.asarray(sample_sheet([sample], columns=3, side=16))
    seen = [sheet[MARGIN + CAPTION + 8, MARGIN + column * (16 + MARGIN) + 8] for column in range(3)]
    for colour, view in zip(seen, (0, 6, 11), strict=True):
        np.testing.assert_array_equal(colour, sample.views[view, 0, 0])


def test_samples_of_few_views_are_side_by_side() -> None:
    singles = [make_sample(str(number), views=1) for number in range(28)]
    sheet = sample_sheet(singles, columns=8, side=16)
    band = CAPTION + 2 * (16 + MARGIN) + CAPTION + MARGIN
    assert sheet.size == (MARGIN + 8 * (16 + MARGIN), MARGIN + 4 * band)
    for number in (0, 9, 27):
        x, y = number % 8 * (16 + MARGIN), number // 8 * band
        seen = sheet.getpixel((MARGIN + x + 8, MARGIN + y + CAPTION + 8))
        assert seen == tuple(singles[number].views[0, 0, 0])
    assert sample_sheet([make_sample(views=3)] * 3, 8, 16).width == MARGIN + 2 * 3 * (16 + MARGIN)


def test_inspect_of_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "shards.inspect", str(tmp_path / "nothing")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
