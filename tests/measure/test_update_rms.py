"""The update RMS against torch's own Adam and the naive twin."""

import numpy as np
import pytest
import torch

from steadygrad.errors import UnsupportedError
from steadygrad.measure import update_rms as module
from steadygrad.measure.reference import measure_arrays
from steadygrad.measure.select import choose, measure
from steadygrad.readings import Layout

ENGINES = ["cpu", "foreach"]
NEEDS = frozenset({"update_rms", "second_moment"})
GROUP = {"lr": 1.0, "betas": (0.9, 0.99), "eps": 1e-8}


def read(grads, slots, groups=(GROUP,), engine="cpu"):
    layout = Layout(tuple(f"t{i}" for i in range(len(grads))))
    held = [g for g in grads if g is not None]
    readings = measure(grads, layout, NEEDS, groups=list(groups), slots=slots, engine=choose(held, engine))
    return np.asarray(readings.update_rms)


@pytest.mark.parametrize("engine", ENGINES)
def test_A12_known_answer(engine):
    slots = [{"exp_avg_sq": torch.ones(5), "step": torch.tensor(10_000.0)}]  # long past any bias
    assert read([torch.full((5,), 3.0)], slots, engine=engine)[0] == pytest.approx(2.88675, rel=2e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_first_step_reads_exactly_one(engine):
    grads = [torch.randn(1000), torch.tensor([1e-3, 0.0, 0.0, 5.0]), torch.zeros(3), torch.zeros(0), None, torch.tensor(1e20)]
    assert read(grads, [{}] * 6, engine=engine).tolist() == [1.0, 0.5**0.5, 0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str)
def test_the_update_that_adam_then_makes_has_this_rms(engine, amsgrad, dtype, monkeypatch):
    """With betas[0] = 0 the update is lr * g / (sqrt(v') + eps), so it can be read off the parameters."""
    monkeypatch.setattr(module, "_CHUNK", 50)
    monkeypatch.setattr(module, "_CHUNK_ON_DEVICE", 50)
    params = [torch.zeros(shape, dtype=dtype, requires_grad=True) for shape in [(), (7, 30), (4, 3, 5, 5)]]
    optimizer = torch.optim.AdamW(params, lr=1.0, betas=(0.0, 0.97), eps=1e-12, weight_decay=0.0, amsgrad=amsgrad)
    for step in range(6):
        for param in params:
            with torch.no_grad():
                param.zero_()
            grad = torch.randn(param.shape, dtype=dtype) * 3.0 ** (3 - step)
            param.grad = grad.to(memory_format=torch.channels_last) if grad.dim() == 4 else grad
        slots = [optimizer.state.get(p, {}) for p in params]
        ours = read([p.grad for p in params], slots, optimizer.param_groups, engine)
        optimizer.step()
        numbers = [torch.view_as_real(p) if p.is_complex() else p for p in (p.detach() for p in params)]
        made = [float(x.double().square().mean().sqrt()) for x in numbers]
        np.testing.assert_allclose(ours, made, rtol=1e-2 if dtype is torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_agrees_with_the_naive_twin(engine):
    grads = [torch.randn(3, 401), torch.randn(70_001) * 1e-3, torch.randn(2)]
    slots = [{"exp_avg_sq": torch.rand_like(g), "step": torch.tensor(7.0)} for g in grads[:2]] + [{}]
    arrays = [{key: value.numpy() for key, value in slot.items()} for slot in slots]
    twin = measure_arrays([g.numpy() for g in grads], Layout(("a", "b", "c")), NEEDS, groups=[GROUP], slots=arrays)
    np.testing.assert_allclose(read(grads, slots, engine=engine), twin.update_rms, rtol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_epsilon_and_a_moment_of_zero_and_a_number_of_steps_that_is_no_tensor(engine):
    slot = {"exp_avg_sq": torch.zeros(2), "step": 3}
    assert read([torch.zeros(2)], [slot], [{**GROUP, "eps": 0.0}], engine).tolist() == [0.0]


def test_a_sparse_gradient_is_refused():
    with pytest.raises(UnsupportedError, match="sparse"):
        read([torch.ones(3).to_sparse()], [{}])


@pytest.mark.parametrize("engine", ENGINES)
def test_reading_changes_nothing(engine):
    grad, moment = torch.randn(40), torch.rand(40)
    copies = grad.clone(), moment.clone()
    read([grad], [{"exp_avg_sq": moment, "step": torch.tensor(2.0)}], engine=engine)
    read([grad], [{}], engine=engine)
    assert torch.equal(grad, copies[0])
    assert torch.equal(moment, copies[1])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("as_scale", [float, torch.tensor])
def test_a_loss_scale_is_taken_out(engine, as_scale):
    grads, slots = [torch.randn(40), torch.randn(3)], [{"exp_avg_sq": torch.rand(40), "step": torch.tensor(2.0)}, {}]
    layout, engine = Layout(("a", "b")), choose(grads, engine)
    scaled = [1024.0 * g for g in grads]
    readings = measure(scaled, layout, NEEDS, groups=[GROUP], slots=slots, engine=engine, loss_scale=as_scale(1024.0))
    np.testing.assert_array_equal(np.asarray(readings.update_rms), read(grads, slots, engine=engine.name))
