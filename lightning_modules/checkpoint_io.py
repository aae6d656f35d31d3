"""Atomic writing of checkpoints."""

from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from core.files import whole_file


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint next to its target, flushes it to disk, and renames it.

    Lightning's own writes into the temporary folder and moves the file, which is not atomic across
    filesystems: a run that is killed meanwhile leaves a truncated checkpoint under its final name.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint. Paths with a scheme, e.g. s3://, are left to Lightning. Raises OSError."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Through a Python file, as torch's own writer does not report why it failed, e.g. a full disk.
        with whole_file(path) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)
