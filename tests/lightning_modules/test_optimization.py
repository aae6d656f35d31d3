import pytest
import torch
from torch import nn

from core.errors import InputError
from core.seeding import STREAM_BLOCK, normal, stream_timesteps, torch_generator
from lightning_modules.optimization import FINAL_FRACTION, Learning


def test_warmup_then_cosine():
    learning = Learning(1e-3, decay="cosine", warmup_steps=4)
    factors = [learning.factor(step, 14) for step in range(15)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1
    assert factors[9] == pytest.approx((1 + FINAL_FRACTION) / 2)
    assert factors[14] == pytest.approx(FINAL_FRACTION)
    assert learning.factor(99, 14) == factors[14]


def test_default_learning_rate_is_constant():
    assert Learning().rate == 1e-5
    assert {Learning().factor(step, -1) for step in range(9)} == {1.0}


def test_biases_have_no_weight_decay():
    optimizer = Learning(weight_decay=0.1).configure(nn.Linear(2, 3).parameters(), 10)["optimizer"]
    decays = {p.ndim: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {2: 0.1, 1: 0.0}


def test_cosine_needs_max_steps():
    with pytest.raises(InputError, match="max_steps"):
        Learning(decay="cosine").configure(nn.Linear(2, 3).parameters(), -1)


def test_draws_depend_only_on_the_key():
    like = torch.zeros(1)
    torch.manual_seed(1)
    one = normal((3,), torch_generator(0, "train", 5), like)
    torch.manual_seed(2)
    assert torch.equal(one, normal((3,), torch_generator(0, "train", 5), like))
    # keys are not concatenated: (1, 23) is not (12, 3)
    assert not torch.equal(
        normal((3,), torch_generator(1, 23), like), normal((3,), torch_generator(12, 3), like)
    )


def test_stream_timesteps_depend_on_position_and_are_spread():
    together = stream_timesteps(0, range(40, 56), 4, 1000)
    apart = torch.cat([stream_timesteps(0, [position], 4, 1000) for position in range(40, 56)])
    assert torch.equal(together, apart)
    for count in (16, 7):  # no gap is larger than three times the mean gap
        some = torch.cat([together.flatten()[:count], torch.tensor([0, 999])]).sort().values
        assert some.diff().max() < 3 * 1000 / count
    many = stream_timesteps(3, range(0, 40 * STREAM_BLOCK, STREAM_BLOCK // 4), 1, 1000)
    assert many.float().mean() == pytest.approx(499.5, abs=40)
    assert not torch.equal(together, stream_timesteps(1, range(40, 56), 4, 1000))
    assert (
        stream_timesteps(0, range(40, 56), 4, 1000, shift=3.0).float().mean() > together.float().mean() + 100
    )


def test_inverse_of_shifted_timesteps_is_uniform():
    """The inverse u = t / (s - (s - 1) t) is uniform."""
    shifted = stream_timesteps(0, range(1000), 1, 1000, shift=3.0).flatten().double().add(0.5) / 1000
    uniform = (shifted / (3 - 2 * shifted)).sort().values
    torch.testing.assert_close(uniform, (torch.arange(1000).double() + 0.5) / 1000, rtol=0, atol=3e-3)
    timesteps = stream_timesteps(0, range(1000), 1, 1000)
    assert torch.equal(stream_timesteps(0, range(1000), 1, 1000, shift=1.0), timesteps)
    assert (timesteps.min(), timesteps.max()) == (0, 999)


def test_8bit_state_takes_a_quarter_and_needs_bitsandbytes(monkeypatch):
    weights = [nn.Parameter(torch.zeros(4096, 8)), nn.Parameter(torch.zeros(10))]
    full, small = Learning(), Learning(optimizer="adamw8bit")
    assert full.state_bytes(weights) == 8 * (4096 * 8 + 10)
    assert small.state_bytes(weights) == 2 * (4096 * 8 + 4 * 128) + 8 * 10
    monkeypatch.setattr("lightning_modules.optimization.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install -e '.\[adamw8bit\]'"):
        small.configure(weights, 10)


def test_8bit_state_size_matches_bitsandbytes():
    pytest.importorskip("bitsandbytes")
    learning = Learning(optimizer="adamw8bit")
    weights = [nn.Parameter(torch.ones(64, 128)), nn.Parameter(torch.ones(10))]
    optimizer = learning.configure(weights, 10)["optimizer"]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert all((weight < 1).all() for weight in weights)
    moments = [x for s in optimizer.state.values() for k, x in s.items() if k.startswith(("state", "absmax"))]
    assert sum(x.nbytes for x in moments) == learning.state_bytes(weights)
