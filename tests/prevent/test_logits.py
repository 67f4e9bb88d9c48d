import math

import pytest
import torch

from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.prevent import QKNorm, soft_cap, z_loss


def test_c14_known_answer_of_z_loss():
    assert f"{z_loss(torch.zeros(1, 2)).item():.4e}" == "4.8045e-05"
    assert z_loss(torch.zeros(1, 2, dtype=torch.float64)).item() == pytest.approx(1e-4 * math.log(2) ** 2, rel=1e-15)


def test_c14_gradient_of_z_loss():
    logits = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    z_loss(logits, 1e-3).backward()
    expected = 2e-3 * logits.logsumexp(-1, keepdim=True) * logits.softmax(-1) / 5
    torch.testing.assert_close(logits.grad, expected.detach(), rtol=1e-12, atol=0)


def test_z_loss_of_other_shapes_and_types():
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert z_loss(logits, dim=1) == z_loss(logits.movedim(1, -1))
    assert z_loss(torch.zeros(0, 4)).item() == 0.0
    half = z_loss(torch.full((2, 1000), 300.0, dtype=torch.float16), 1.0)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx((300 + math.log(1000)) ** 2, rel=1e-6)  # beyond the range of float16
    masked = torch.tensor([[0.0, 0.0, -math.inf]], requires_grad=True)
    z_loss(masked).backward()
    assert masked.grad[0, 2] == 0.0


def test_c14_known_answer_of_soft_cap():
    assert round(soft_cap(torch.tensor([50.0], dtype=torch.float64), 50.0).item(), 4) == 38.0797


def test_soft_cap_is_the_identity_near_zero_and_bounded():
    x = torch.tensor([1e-6, 1e30, -math.inf], dtype=torch.float64, requires_grad=True)
    y = soft_cap(x, 30.0)
    assert y.tolist() == [pytest.approx(1e-6, rel=1e-12), 30.0, -30.0]
    y.sum().backward()
    assert x.grad.tolist() == [pytest.approx(1.0), 0.0, 0.0]
    assert soft_cap(torch.ones(2, dtype=torch.bfloat16), 30.0).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_c14_known_answer_logits_do_not_depend_on_the_size_of_the_projection(kind):
    source = torch.Generator().manual_seed(0)
    x, w_q, w_k = (torch.randn(shape, generator=source) for shape in ((6, 32), (32, 16), (32, 16)))
    norm = QKNorm(16, kind=kind)

    def logits(factor):
        query, key = norm(x @ (factor * w_q), x @ w_k)
        return query @ key.T / 4.0

    torch.testing.assert_close(logits(1000.0), logits(1.0), rtol=1e-5, atol=1e-5)
    assert logits(1.0).abs().max() <= 4.0 + 1e-5
    assert (x @ (1000.0 * w_q) @ (x @ w_k).T / 4.0).abs().max() > 1000.0  # without it


def test_QKNorm_is_the_layer_norm_of_torch_and_learns_gains():
    query, key = torch.randn(2, 2, 3, 5, 8, generator=torch.Generator().manual_seed(0)).unbind()
    norm = QKNorm(8, kind="layer", eps=1e-5)
    with torch.no_grad():
        norm.query_gain.mul_(3.0)
    got, other = norm(query, key)
    torch.testing.assert_close(got, 3.0 * torch.nn.functional.layer_norm(query, (8,), eps=1e-5))
    torch.testing.assert_close(other, torch.nn.functional.layer_norm(key, (8,), eps=1e-5))
    got.square().sum().backward()
    assert norm.query_gain.grad.abs().min() > 0
    assert [name for name, _ in norm.named_parameters()] == ["query_gain", "key_gain"]
    assert list(QKNorm(8, learnable=False).parameters()) == []
    assert "8, kind='layer'" in repr(norm)


def test_QKNorm_in_half_precision_and_at_zero():
    norm = QKNorm(4)
    query, key = norm(torch.full((1, 4), 6e4, dtype=torch.float16), torch.zeros(1, 4, dtype=torch.float16))
    assert query.dtype == torch.float16
    assert query.tolist() == [[1.0] * 4]
    assert key.tolist() == [[0.0] * 4]


def test_arguments_are_checked():
    with pytest.raises(ArgumentError) as caught:
        QKNorm(4)(torch.zeros(2, 8), torch.zeros(2, 8))
    assert caught.value.slug == "head-dim"
    for call in (lambda: z_loss([0.0]), lambda: soft_cap(torch.ones(2, dtype=torch.int64), 1.0), lambda: QKNorm(2.0)):
        with pytest.raises(ArgumentTypeError):
            call()
    for call in (
        lambda: z_loss(torch.zeros(1, 2), -1.0),
        lambda: soft_cap(torch.zeros(2), 0.0),
        lambda: soft_cap(torch.zeros(2), math.inf),
        lambda: QKNorm(4, kind="batch"),
        lambda: QKNorm(4, eps=0.0),
    ):
        with pytest.raises(ArgumentError):
            call()
