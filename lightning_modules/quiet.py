"""Suppression of individual messages of Lightning that need no action."""

import logging
import warnings

RANK_ZERO = "pytorch_lightning.utilities.rank_zero"  # the logger of Lightning's messages to the terminal


def quiet_lightning() -> None:
    """Suppress four messages of Lightning 2.6; all others are shown."""
    # An advertisement, printed whenever another logger is used; and a line on SIGINT besides ours.
    logging.getLogger(RANK_ZERO).addFilter(_is_of_use)
    # Frozen networks are in evaluation mode on purpose: `TrainedPart.train` keeps them there.
    warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode at the start of training")
    # Lightning's own use of a deprecated function of PyTorch.
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)


def _is_of_use(record: logging.LogRecord) -> bool:
    said = record.getMessage()
    return "Tip: For seamless cloud" not in said and "Detected KeyboardInterrupt" not in said
