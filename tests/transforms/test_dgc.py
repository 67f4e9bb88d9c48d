import numpy as np
import pytest
import torch
from helpers import run_transform

from steadygrad.policy import Place
from steadygrad.readings import Layout, Readings
from steadygrad.transforms.dgc import dgc


def test_b7_known_answer_of_dgc():
    memory, policy = {}, dgc(0.5, momentum=0.9)
    assert run_transform(policy, torch.tensor([1.0, 2.0]), memory).tolist() == [0.0, 2.0]
    assert [memory[key].tolist() for key in ("momentum", "gathered")] == [[1.0, 0.0], [1.0, 0.0]]
    out = run_transform(policy, torch.tensor([1.0, 0.0]), memory)  # u = [1.9, 0], w = [2.9, 0], of which the first is sent
    assert out.tolist() == pytest.approx([2.9, 0.0], rel=1e-6)
    assert [memory[key].tolist() for key in ("momentum", "gathered")] == [[0.0, 0.0], [0.0, 0.0]]


def test_b7_momentum_stays_where_nothing_was_sent():
    memory, policy = {}, dgc(0.5, momentum=0.9)
    for grad in ([1.0, 2.0], [1.0, 5.0]):
        run_transform(policy, torch.tensor(grad), memory)
    assert memory["momentum"].tolist() == pytest.approx([1.9, 0.0], rel=1e-6)
    assert memory["gathered"].tolist() == pytest.approx([2.9, 0.0], rel=1e-6)


def test_b7_agrees_with_the_formulas_over_many_steps():
    random, memory, policy = np.random.default_rng(0), {}, dgc(0.2, momentum=0.7, max_norm=2.0)
    u, w = np.zeros(20), np.zeros(20)
    for step in range(30):
        grad = random.standard_normal(20)
        out = run_transform(policy, torch.from_numpy(grad), memory, step=step)
        u = 0.7 * u + grad * min(1.0, 2.0 / np.linalg.norm(grad))
        w = w + u
        sent = np.argsort(-np.abs(w))[:4]
        expected = np.zeros(20)
        expected[sent] = w[sent]
        np.testing.assert_allclose(out.numpy(), expected, rtol=1e-12)
        u[sent], w[sent] = 0.0, 0.0
        np.testing.assert_allclose(memory["gathered"].numpy(), w, rtol=1e-12)
        np.testing.assert_allclose(memory["momentum"].numpy(), u, rtol=1e-12)


def test_b7_without_momentum_nothing_is_lost():
    memory, policy, total, sent = {}, dgc(0.1, momentum=0.0), torch.zeros(50), torch.zeros(50)
    for step in range(100):
        grad = torch.randn(50)
        total += grad
        sent += run_transform(policy, grad, memory, step=step)
    torch.testing.assert_close(sent + memory["gathered"], total, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.25, 0.25, 0.0625, 0.0625, 0.015625, 0.015625, 0.00390625, 0.00390625, 0.001, 0.001]),
        ({"fraction": 0.1}, [0.25, 0.25, *[0.1] * 8]),
    ],
)
def test_b7_the_share_shrinks_during_the_warm_up(settings, expected):
    policy = dgc(**settings, warmup=8)
    assert [policy.rewrite.share_at(step) for step in range(10)] == expected
    sent = [int((run_transform(policy, torch.randn(10_000), step=step) != 0).sum()) for step in (0, 2, 9)]
    assert sent == [round(10_000 * expected[step]) for step in (0, 2, 9)]


def test_b7_a_whole_share_is_plain_momentum_free_descent():
    memory = {}
    for step in range(3):
        assert run_transform(dgc(1.0), torch.tensor([1.0, -2.0]), memory, step=step).tolist() == [1.0, -2.0]


def test_b7_local_clipping_known_answer_and_bits_below_the_limit():
    assert run_transform(dgc(1.0, max_norm=1.0), torch.tensor([3.0, 4.0])).tolist() == pytest.approx([0.6, 0.8], rel=1e-6)
    grad = torch.tensor([0.3, 0.4])
    assert torch.equal(run_transform(dgc(1.0, max_norm=1.0), grad), grad)


def test_b7_numbers_from_either_namespace_serve():
    policy, out = dgc(1.0, max_norm=1.0), []
    for xp, sum_sq in ((np, np.array([25.0])), (torch, torch.tensor([25.0], dtype=torch.float64))):
        decision, _ = policy.decide(Readings(Layout(("w",)), xp, sum_sq), {})
        grad = torch.tensor([3.0, 4.0])
        policy.rewrite(grad, Place("w", grad, {}, {}, {}, {"clip": decision.numbers["clip"][0]}, step=0))
        out.append(grad)
    assert torch.equal(*out)


def test_b7_what_is_gathered_stays_finite():
    memory, policy = {}, dgc(0.5, momentum=0.99)
    for step in range(20):
        out = run_transform(policy, torch.full((4,), 3e38), memory, step=step)
        assert all(torch.isfinite(tensor).all() for tensor in (out, *memory.values()))
