import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import steadygrad as sg


def test_b11_prox_known_answer(harness):
    result = harness(sg.proximal_l1(1.0))(torch.tensor([0.3, -0.05]), lr=0.1)
    torch.testing.assert_close(result, torch.tensor([0.2, 0.0]), rtol=1e-6, atol=0)
    assert float(result[1]) == 0.0


@given(st.lists(st.floats(-10.0, 10.0), min_size=1), st.floats(1e-6, 5.0))
def test_b11_prox_minimises_its_problem(harness, values, amount):
    weight = torch.tensor(values, dtype=torch.float64)
    result = harness(sg.proximal_l1(amount))(weight.clone(), lr=1.0)

    def cost(x):
        return 0.5 * (x - weight) ** 2 + amount * x.abs()

    for nudge in (-1e-3, 1e-3):
        assert bool((cost(result) <= cost(result + nudge)).all())
    assert bool((result == 0).eq(weight.abs() <= amount).all())


def test_b11_prox_and_sgd_find_exact_zeros():
    torch.manual_seed(0)
    x, truth = torch.randn(200, 10), torch.zeros(10)
    truth[:2] = torch.tensor([2.0, -3.0])
    weight = torch.nn.Parameter(torch.zeros(10))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    sg.Guard(optimizer, sg.proximal_l1(0.3))
    for _ in range(200):
        optimizer.zero_grad()
        (x @ weight - x @ truth).square().mean().backward()
        optimizer.step()
    assert torch.equal(weight.detach() != 0, truth != 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_b11_adam_with_decoupled_l2_is_adamw(dtype):
    torch.manual_seed(0)
    start = [torch.randn(4, 3).to(dtype), torch.randn(3).to(dtype)]
    grads = [[torch.randn_like(w) for w in start] for _ in range(20)]
    results = []
    for make, policy in (
        (lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1), None),
        (lambda p: torch.optim.Adam(p, lr=0.01), sg.decoupled_l2(0.1)),
        (lambda p: torch.optim.Adam(p, lr=0.01), sg.decoupled_l2(0.001, fully=True)),
        (lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1), None),
    ):
        params = [torch.nn.Parameter(w.clone()) for w in start]
        optimizer = make(params)
        if policy is not None:
            sg.Guard(optimizer, policy)
        for step in grads:
            for param, grad in zip(params, step, strict=True):
                param.grad = grad.clone()
            optimizer.step()
        results.append(torch.cat([p.detach().flatten() for p in params]))
    digits = {"rtol": 20 * torch.finfo(dtype).eps, "atol": 20 * torch.finfo(dtype).eps}
    torch.testing.assert_close(results[1], results[0], **digits)
    torch.testing.assert_close(results[2], results[0], **digits)
    assert float((results[3] - results[0]).abs().max()) > 1e-3


def test_b11_sgd_with_decoupled_l2_is_sgd_with_coupled():
    torch.manual_seed(0)
    start, grads = torch.randn(5).double(), torch.randn(10, 5).double()
    results = []
    for decay, policy in ((0.1, None), (0.0, sg.decoupled_l2(0.1))):
        param = torch.nn.Parameter(start.clone())
        optimizer = torch.optim.SGD([param], lr=0.05, weight_decay=decay)
        if policy is not None:
            sg.Guard(optimizer, policy)
        for grad in grads:
            param.grad = grad.clone()
            optimizer.step()
        results.append(param.detach())
    torch.testing.assert_close(results[0], results[1], rtol=1e-13, atol=0)


def test_b11_fully_decoupled_wants_no_learning_rate(harness):
    result = harness(sg.decoupled_l2(0.25, fully=True))(torch.tensor([4.0]), torch.tensor([8.0]))
    assert float(result) == 2.0
