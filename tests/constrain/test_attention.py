import math

import pytest
import torch
from torch import nn

import steadygrad as sg
from steadygrad.constrain.attention import QKClip, qk_clip_
from steadygrad.errors import ArgumentError, UnsupportedError


def logits_of(w_q, w_k, x, heads, key_heads, b_q=0.0, b_k=0.0):
    """The largest logit of each query head, one head after the other."""
    q, k = x @ w_q.T + b_q, x @ w_k.T + b_k
    size, share = w_q.shape[0] // heads, heads // key_heads
    return torch.stack(
        [
            (q[:, h * size : (h + 1) * size] @ k[:, h // share * size : (h // share + 1) * size].T).max() / math.sqrt(size)
            for h in range(heads)
        ]
    )


def test_a18_known_answer():
    torch.manual_seed(0)
    w_q, w_k, x = torch.randn(4, 3).double(), torch.randn(4, 3).double(), torch.randn(9, 3).double()
    w_q *= (400.0 / logits_of(w_q, w_k, x, 1, 1)).item()
    before = w_q.clone(), w_k.clone()
    largest = logits_of(w_q, w_k, x, 1, 1)
    torch.testing.assert_close(largest, torch.tensor([400.0]).double())
    qk_clip_(w_q, w_k, largest)
    torch.testing.assert_close(w_q, before[0] * 0.5)
    torch.testing.assert_close(w_k, before[1] * 0.5)
    torch.testing.assert_close(logits_of(w_q, w_k, x, 1, 1), torch.tensor([100.0]).double())


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("key_heads", [6, 3, 1])
def test_a18_no_head_stays_above_the_threshold_and_the_largest_of_a_group_comes_down_to_it(alpha, key_heads):
    torch.manual_seed(0)
    size, heads, x = 4, 6, torch.randn(9, 5).double()
    w_q, b_q = torch.randn(heads * size, 5).double(), torch.randn(heads * size).double()
    w_k, b_k = torch.randn(key_heads * size, 5).double(), torch.randn(key_heads * size).double()
    w_q[: 2 * size], b_q[: 2 * size] = w_q[: 2 * size] * 0.01, b_q[: 2 * size] * 0.01
    before = logits_of(w_q, w_k, x, heads, key_heads, b_q, b_k)
    qk_clip_((w_q, b_q), (w_k, b_k), before, 2.0, alpha, num_kv_heads=key_heads)
    after = logits_of(w_q, w_k, x, heads, key_heads, b_q, b_k)
    assert float(after.max()) <= 2.0 * (1 + 1e-12)
    groups = before.view(key_heads, -1).amax(1)
    expected = groups.clamp(max=2.0)
    torch.testing.assert_close(after.view(key_heads, -1).amax(1)[groups > 2.0], expected[groups > 2.0])


def test_a18_heads_within_the_threshold_keep_their_bits():
    w_q, w_k = torch.randn(8, 3), torch.randn(8, 3)
    before = w_q.clone(), w_k.clone()
    qk_clip_(w_q, w_k, torch.tensor([100.0, 400.0]))
    assert torch.equal(w_q[:4], before[0][:4])
    assert torch.equal(w_k[:4], before[1][:4])
    torch.testing.assert_close(w_q[4:], before[0][4:] * 0.5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a18_logits_that_are_not_finite_raise_and_nothing_is_changed(bad):
    w_q, w_k = torch.ones(2, 3), torch.ones(2, 3)
    with pytest.raises(ArgumentError, match="logits-nonfinite"):
        qk_clip_(w_q, w_k, torch.tensor([400.0, bad]))
    assert bool((w_q == 1).all() and (w_k == 1).all())


@pytest.mark.parametrize(("rows", "logits", "key_heads"), [(4, 3, None), (6, 3, 2), (6, 3, 0), (6, 0, None), (5, 2, 1)], ids=str)
def test_a18_heads_that_do_not_fit(rows, logits, key_heads):
    with pytest.raises(ArgumentError, match="attention-heads"):
        qk_clip_(torch.ones(rows, 2), torch.ones(rows, 2), torch.ones(logits), num_kv_heads=key_heads)


@pytest.mark.parametrize("arguments", [(0.0, 0.5), (math.nan, 0.5), (1.0, -0.1), (1.0, 1.1), (1.0, math.nan)])
def test_a18_numbers_that_cannot_work(arguments):
    with pytest.raises(ArgumentError, match="threshold-invalid"):
        qk_clip_(torch.ones(2, 2), torch.ones(2, 2), torch.ones(1), *arguments)


def test_a18_half_precision_weights():
    w_q, w_k = torch.full((2, 2), 3.0).bfloat16(), torch.full((2, 2), 5.0).half()
    qk_clip_(w_q, w_k, torch.tensor([400.0], dtype=torch.bfloat16))
    assert bool((w_q == 1.5).all() and (w_k == 2.5).all())


def captured(module, *args, **kwargs):
    """The attention weights of each head, whose logarithm gives the logits up to a constant per query."""
    return module(*args, need_weights=True, average_attn_weights=False, **kwargs)[1]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kdim", [None, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_a18_the_measured_logits_are_those_of_the_module(batch_first, kdim, bias):
    module = nn.MultiheadAttention(8, 2, batch_first=batch_first, kdim=kdim, vdim=kdim, bias=bias).double()
    if bias:
        nn.init.normal_(module.in_proj_bias)
    clip = QKClip(module, 1.0)
    query, key = torch.randn(3, 3, 8).double(), torch.randn(3, 3, kdim or 8).double()
    weights = captured(module, query, key, key).log()
    w_q, w_k = (module.q_proj_weight, module.k_proj_weight) if kdim else module.in_proj_weight.chunk(3)[:2]
    b_q, b_k = module.in_proj_bias.chunk(3)[:2] if bias else (torch.zeros(8), torch.zeros(8))
    if not batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    q, k = query @ w_q.T + b_q, key @ w_k.T + b_k
    logits = torch.stack([q[..., h * 4 : h * 4 + 4] @ k[..., h * 4 : h * 4 + 4].mT / 2.0 for h in range(2)], 1)
    torch.testing.assert_close(logits.log_softmax(-1), weights)  # the twin is right
    torch.testing.assert_close(clip.max_logits()[0], logits.amax((0, 2, 3)).detach())


@pytest.mark.parametrize("kind", ["bool", "float", "heads", "padding", "unbatched"])
def test_a18_what_a_mask_excludes_does_not_count(kind):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(4, 2, batch_first=True)
    with torch.no_grad():
        module.in_proj_weight[:4] = module.in_proj_weight[4:8] = torch.eye(4)
    x = torch.ones(1, 2, 4)
    x[0, 1] = 10.0  # key 1 has the largest logits
    clip = QKClip(module)
    causal = torch.tensor([[False, True], [False, True]])
    arguments = {
        "bool": {"attn_mask": causal},
        "float": {"attn_mask": torch.zeros(2, 2).masked_fill(causal, -math.inf)},
        "heads": {"attn_mask": causal.expand(2, 2, 2)},
        "padding": {"key_padding_mask": torch.tensor([[False, True]])},
        "unbatched": {"attn_mask": causal},
    }[kind]
    x = x[0] if kind == "unbatched" else x
    module(x, x, x, **arguments)
    torch.testing.assert_close(clip.max_logits()[0], torch.full((2,), 20.0 / math.sqrt(2)))
    module(x, x, x)  # a second micro-batch without a mask
    torch.testing.assert_close(clip.max_logits()[0], torch.full((2,), 200.0 / math.sqrt(2)))


class Net(nn.Module):
    """Attention and a loss."""

    def __init__(self, kdim=None):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, kdim=kdim, vdim=kdim)
        self.kdim = kdim

    def forward(self, x):
        y = x[..., : self.kdim] if self.kdim else x
        return self.attention(x, y, y)[0].square().sum()


@pytest.mark.parametrize("kdim", [None, 3])
def test_a18_guarded_attention_has_its_logits_at_the_threshold_after_the_step(kdim):
    torch.manual_seed(0)
    net, x = Net(kdim).double(), torch.randn(2, 5, 4).double() * 10
    clip = QKClip(net, 3.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-12)
    sg.Guard(optimizer, sg.chain(sg.clip_by_global_norm(1.0), clip.policy), model=net)
    net(x).backward()
    first = clip.max_logits()[0].clone()
    assert float(first.min()) > 3.0
    optimizer.step()
    net(x)
    torch.testing.assert_close(clip.max_logits()[0], torch.full((2,), 3.0).double())
    value = net.attention.v_proj_weight if kdim else net.attention.in_proj_weight[8:]
    torch.manual_seed(0)
    fresh = Net(kdim).double().attention
    torch.testing.assert_close(value, fresh.v_proj_weight if kdim else fresh.in_proj_weight[8:])


def test_a18_the_maximum_runs_over_micro_batches_and_ends_with_the_step():
    torch.manual_seed(0)
    net = Net()
    clip = QKClip(net, 1e6)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    sg.Guard(optimizer, clip.policy, model=net)
    large, small = torch.randn(1, 3, 4) * 10, torch.randn(1, 3, 4)
    net(large).backward()
    alone = clip.max_logits()[0]
    net(small).backward()
    assert torch.equal(clip.max_logits()[0], alone)
    optimizer.step()
    net.eval()
    net(small)
    assert torch.equal(clip.max_logits()[0], alone)  # evaluation is not training
    net.train()
    net(small)
    assert bool((clip.max_logits()[0] < alone).all())


def test_a18_a_step_with_logits_that_are_not_finite_is_forgotten():
    torch.manual_seed(0)
    net, x = Net(), torch.randn(1, 3, 4)
    clip = QKClip(net, 0.1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    guard = sg.Guard(optimizer, sg.chain(sg.skip_nonfinite(), clip.policy), model=net)
    before = net.attention.in_proj_weight.detach().clone()
    net(x * math.inf).backward()
    optimizer.step()
    assert guard.num_skipped == 1
    assert torch.equal(net.attention.in_proj_weight, before)
    optimizer.zero_grad()
    net(x).backward()
    assert bool(torch.isfinite(clip.max_logits()[0]).all())


def test_a18_closed_is_off():
    net, x = Net(), torch.randn(1, 3, 4)
    clip = QKClip(net, 0.1)
    net(x)
    clip.close()
    net(x)
    assert clip.max_logits() == []


def test_a18_attention_that_is_not_covered():
    with pytest.raises(UnsupportedError, match="attention-heads"):
        QKClip(nn.MultiheadAttention(4, 2, add_bias_kv=True))
    with pytest.raises(ArgumentError, match="attention-heads"):
        QKClip(nn.Linear(2, 2))


def test_a18_the_text_says_that_it_holds_a_model():
    policy = QKClip(nn.MultiheadAttention(4, 2), 50.0).policy
    assert policy.text == "qk_clip(<model>, 50.0)"
    with pytest.raises(ArgumentError, match="policy-syntax"):
        sg.parse_policy(policy.text)
