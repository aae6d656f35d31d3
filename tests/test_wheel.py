"""A wheel holds what an installation needs, and works from any folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.test_rooms import ROOMS

ROOT = Path(__file__).parents[1]
LOADS = """
from pathlib import Path
import core
from lightning_modules.networks.portrait import load_portrait_model
model = load_portrait_model("checkpoints/mini")
print(model.backbone.vae.config.sample_size, Path(core.__path__[0]).parent)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An unpacked wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(source)]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def run(installed, folder, *arguments):
    """What Python prints that is run in `folder`, with the packages of the unpacked wheel first."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_module_and_config_is_in_the_wheel(installed):
    modules = {path for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert [path for path in modules if not (installed / path.relative_to(ROOT)).is_file()] == []
    configs = {path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml")}
    assert configs
    assert [path for path in configs if not (installed / "diffportrait3d" / path).is_file()] == []


@pytest.mark.slow
def test_installed_commands_find_configs_and_the_model_from_any_folder(installed, tmp_path):
    command = ["-m", "diffportrait3d", "fit", "--config", "configs/stage1.yaml", "--print_config"]
    assert "reference" in run(installed, tmp_path, *command)
    assert run(installed, tmp_path, "-c", LOADS).split() == ["128", str(installed)]
