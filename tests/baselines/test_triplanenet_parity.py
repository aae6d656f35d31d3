"""TriPlaneNet v2 against the public code's own outputs, on the weights of `tests.parity.recipe`."""

from dataclasses import replace

import pytest
import torch

from baselines.archives import without_prefix
from baselines.layers import outputs_of
from baselines.triplanenet.system import TriPlaneNet, TriPlaneNetSettings, build_encoders
from baselines.triplanenet.encoders import PlaneEncoder, StyleEncoder, Widths
from generators.gan.architecture import Settings
from generators.gan.folder import build_generator
from portraits.pixels import to_pixels
from tests.baselines.compare import assert_close
from tests.parity.recipe import baseline_weights, golden, key_list

SIDE = 64
