import pytest
import torch
from helpers import run_transform
from torch import nn

import steadygrad as sg
from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.policies import parse_policy
from steadygrad.policy import Place
from steadygrad.transforms.compressing import compressor
from steadygrad.transforms.feedback import error_feedback
from steadygrad.transforms.pruning import prune_topk
from steadygrad.transforms.sign import sign

COMPRESSORS = ["prune_topk(0.1)", "prune_hard(1.0)", "prune_soft(1.0)", "sign(scaled=True)", "onebit(feedback=False)"]
COMPRESSORS += ["fp8()", "fp8('e4m3', stochastic=True)", "qsgd()", "terngrad()", "sign()"]


def test_b7_known_answer_with_feedback():
    memory, policy = {}, error_feedback(prune_topk(1 / 3))
    assert run_transform(policy, torch.tensor([3.0, -0.5, -2.0]), memory).tolist() == [3.0, 0.0, 0.0]
    assert memory["residual"].tolist() == [0.0, -0.5, -2.0]
    assert run_transform(policy, torch.tensor([1.0, 0.0, 0.0]), memory).tolist() == [0.0, 0.0, -2.0]
    assert memory["residual"].tolist() == [1.0, -0.5, 0.0]


def test_b4_known_answer_of_ef_signsgd():
    memory, policy = {}, error_feedback(sign(scaled=True))
    assert run_transform(policy, torch.tensor([1.0, -3.0]), memory).tolist() == [2.0, -2.0]
    assert memory["residual"].tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("text", COMPRESSORS)
def test_nothing_is_lost_over_a_hundred_steps(text):
    policy, memory = error_feedback(parse_policy(text)), {}
    given, passed_on = torch.zeros(64, dtype=torch.float64), torch.zeros(64, dtype=torch.float64)
    for step in range(100):
        grad = torch.randn(64)
        given += grad
        passed_on += run_transform(policy, grad, memory, step=step)
    torch.testing.assert_close(passed_on + memory["residual"], given, rtol=0.0, atol=1e-4)


def test_the_residual_is_in_units_of_the_gradient_whatever_the_learning_rate():
    outcomes = []
    for rates in ((1.0, 1.0), (1.0, 0.001)):
        memory, policy = {}, error_feedback(prune_topk(0.5))
        for lr in rates:
            grad = torch.tensor([1.0, 3.0])
            policy.rewrite(grad, Place("w", grad, {"lr": lr}, {}, memory, {}, step=0))
        outcomes.append((grad.tolist(), memory["residual"].tolist()))
    assert outcomes[0] == outcomes[1]


def test_sums_that_overflow_become_the_largest_number():
    memory, policy, largest = {}, error_feedback(sign()), torch.finfo(torch.float32).max
    for _ in range(3):
        out = run_transform(policy, torch.tensor([largest, -largest]), memory)
    assert out.tolist() == [1.0, -1.0]
    assert memory["residual"].tolist() == [largest, -largest]


def count_calls(grad, place):
    place.memory["calls"] = place.memory.get("calls", torch.zeros(())) + 1
    grad.mul_(0.5)


def test_the_compressor_has_a_memory_of_its_own():
    memory, policy = {}, error_feedback(compressor("half()", count_calls))
    for _ in range(3):
        run_transform(policy, torch.ones(2), memory)
    assert sorted(memory) == ["inner.calls", "residual"]
    assert float(memory["inner.calls"]) == 3.0
    assert memory["residual"].tolist() == [0.875, 0.875]


def test_a_chain_acts_before_the_residual_is_added():
    memory, policy = {}, error_feedback(sg.chain(sg.clip_by_norm(5.0), prune_topk(0.5)))
    assert run_transform(policy, torch.tensor([6.0, 8.0]), memory).tolist() == pytest.approx([0.0, 4.0])
    assert memory["residual"].tolist() == pytest.approx([3.0, 0.0])


@pytest.mark.parametrize("inside", [True, False])
def test_masked_inside_or_outside_leaves_the_others_alone(inside):
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    mask = error_feedback(sg.masked(prune_topk(0.5), "a")) if inside else sg.masked(error_feedback(prune_topk(0.5)), "a")
    guard = sg.Guard(torch.optim.SGD([("a", a), ("b", b)], lr=1.0), mask)
    for expected in ([0.0, 2.5], [0.0, 2.5], [3.0, 0.0]):
        a.grad, b.grad = torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.5])
        guard.optimizer.step()
        assert a.grad.tolist() == expected
        assert b.grad.tolist() == [1.0, 2.5]


def test_a_skipped_step_and_an_absent_gradient_leave_the_residual_as_it_is():
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    guard = sg.Guard(torch.optim.SGD([("a", a), ("b", b)], lr=1.0), error_feedback(prune_topk(0.5)))
    for grads in (([1.0, 2.0], [3.0, 4.0]), ([1.0, float("nan")], [3.0, 4.0]), (None, [0.0, 9.0])):
        a.grad, b.grad = (None if grad is None else torch.tensor(grad) for grad in grads)
        guard.optimizer.step()
    assert {key: value.tolist() for key, value in guard.state_dict()["memory"].items()} == {
        "0|0|residual": [1.0, 0.0],
        "0|1|residual": [3.0, 0.0],
    }


def test_descent_with_one_coordinate_in_twenty_arrives():
    target, param = torch.linspace(-2.0, 2.0, 100), nn.Parameter(torch.zeros(100))
    guard = sg.Guard(torch.optim.SGD([param], lr=0.02), error_feedback(prune_topk(0.05)))
    for _ in range(1500):
        param.grad = 2.0 * (param.detach() - target)
        guard.optimizer.step()
    assert float((param.detach() - target).abs().max()) < 0.01


def test_the_text_nests_and_parses_back():
    assert parse_policy("error_feedback(prune_topk(0.01))").text == "error_feedback(prune_topk())"
    assert parse_policy("masked(error_feedback(qsgd(4)), '*')").text == "masked(error_feedback(qsgd(4)), '*')"


@pytest.mark.parametrize("policy", [sg.clip_by_norm(1.0), sg.clip_by_value(1.0), sg.chain(), sg.chain(prune_topk(), sign()), 1.0])
def test_what_is_no_transform_is_refused(policy):
    with pytest.raises(ArgumentTypeError, match="policy-expected"):
        error_feedback(policy)


@pytest.mark.parametrize("text", ["onebit()", "dgc()", "error_feedback(sign())", "masked(onebit(), '*')"])
def test_a_second_memory_is_refused(text):
    with pytest.raises(ArgumentError, match="feedback-twice"):
        parse_policy(f"error_feedback({text})")
