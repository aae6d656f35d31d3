import pytest
import torch

from benchmarks.denoising import Size, build, kept_bytes, operations, steps, training

SMALL = Size((32, 32, 32, 32), 16)


@pytest.fixture
def parts():
    made = build(SMALL, 3, "cpu", torch.float32, channels_last=False, compile=False)
    made.reference.load_state_dict({name: x + 0.02 for name, x in made.reference.state_dict().items()})
    return made


@torch.no_grad()
def test_the_ways_of_a_guided_step_are_one_step(parts):
    outputs = {name: run() for name, run in steps(parts).items()}
    released = outputs["released"]
    for name, output in outputs.items():
        torch.testing.assert_close(output, released, rtol=1e-3, atol=1e-4, msg=name)


def test_the_ways_of_a_training_step_are_one_step(parts):
    gradients = {}
    for name, run in training(parts).items():
        run()
        gradients[name] = torch.cat([x.grad.flatten() for x in parts.reference.parameters()])
    first = next(iter(gradients.values()))
    assert first.norm() > 0
    for name, gradient in gradients.items():
        assert (gradient - first).norm() < 1e-4 * first.norm(), name


def test_ours_do_less_and_keep_less(parts):
    with torch.no_grad():
        work = [operations(run) for run in steps(parts).values()]
    assert work == sorted(work, reverse=True)
    kept = [kept_bytes(run, parts, "cpu") for run in training(parts).values()]
    assert kept == sorted(kept, reverse=True)
