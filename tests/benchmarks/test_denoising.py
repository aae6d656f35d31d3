import pytest
import torch

from benchmarks.denoising import Size, build, operations, peak_bytes, steps, training

SMALL = Size((32, 32, 32, 32), 16)


def shaken(**settings):
    made = build(SMALL, 4, "cpu", portraits=2, **settings)
    made.reference.load_state_dict({name: x + 0.02 for name, x in made.reference.state_dict().items()})
    return made


@pytest.fixture(scope="module")
def sampling_parts():
    return shaken()


@pytest.fixture(scope="module")
def training_parts():
    return shaken(attached=False)


@torch.no_grad()
def test_all_guided_steps_agree(sampling_parts):
    outputs = {name: run() for name, run in steps(sampling_parts).items()}
    released = outputs["released"]
    for name, output in outputs.items():
        torch.testing.assert_close(output, released, rtol=1e-3, atol=1e-4, msg=name)


def test_all_training_steps_agree(training_parts):
    gradients = {}
    for name, run in training(training_parts).items():
        run()
        gradients[name] = torch.cat([x.grad.flatten() for x in training_parts.reference.parameters()])
    first = next(iter(gradients.values()))
    assert first.norm() > 0
    for name, gradient in gradients.items():
        assert (gradient - first).norm() < 1e-4 * first.norm(), name


@pytest.mark.slow
def test_operations_and_memory_decrease_down_the_table(sampling_parts, training_parts):
    with torch.no_grad():
        work = [operations(run) for run in steps(sampling_parts).values()]
    assert work == sorted(work, reverse=True)
    peak = [peak_bytes(run, "cpu") for run in training(training_parts).values()]
    assert peak == sorted(peak, reverse=True)
    assert peak[-1] > 0


@pytest.mark.slow
def test_operations_on_meta_tensors_match_the_cpu(training_parts):
    """At full size only meta tensors fit into memory."""
    meta = build(SMALL, 4, "meta", portraits=2, attached=False)
    done, counted = (operations(training(parts)["ours, checkpointed"]) for parts in (training_parts, meta))
    assert counted == done > 0
