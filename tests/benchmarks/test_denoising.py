import torch

from benchmarks.denoising import Size, build, operations, peak_bytes, steps, training

SMALL = Size((32, 32, 32, 32), 16)


def shaken(**settings):
    made = build(SMALL, 4, "cpu", **settings)
    made.reference.load_state_dict({name: x + 0.02 for name, x in made.reference.state_dict().items()})
    return made


@torch.no_grad()
def test_all_guided_steps_agree():
    outputs = {name: run() for name, run in steps(shaken(portraits=2)).items()}
    released = outputs["released"]
    for name, output in outputs.items():
        torch.testing.assert_close(output, released, rtol=1e-3, atol=1e-4, msg=name)


def test_all_training_steps_agree():
    parts, gradients = shaken(portraits=2, attached=False), {}
    for name, run in training(parts).items():
        run()
        gradients[name] = torch.cat([x.grad.flatten() for x in parts.reference.parameters()])
    first = next(iter(gradients.values()))
    assert first.norm() > 0
    for name, gradient in gradients.items():
        assert (gradient - first).norm() < 1e-4 * first.norm(), name


def test_operations_and_memory_decrease_down_the_table():
    with torch.no_grad():
        work = [operations(run) for run in steps(shaken()).values()]
    assert work == sorted(work, reverse=True)
    peak = [peak_bytes(run, "cpu") for run in training(shaken(attached=False)).values()]
    assert peak == sorted(peak, reverse=True)
    assert peak[-1] > 0


def test_operations_on_meta_tensors_match_the_cpu():
    """At full size only meta tensors fit into memory."""
    done, counted = (
        operations(training(build(SMALL, 4, device, portraits=2, attached=False))["ours, checkpointed"])
        for device in ("cpu", "meta")
    )
    assert counted == done > 0
