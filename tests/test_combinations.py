"""Every policy with every torch optimizer and with learning-rate schedules: it trains, or says when attached that it cannot."""

import math

import pytest
import torch
from helpers import SAMPLES
from torch import nn
from torch.optim import lr_scheduler

import steadygrad as sg
from steadygrad.errors import UnsupportedError
from steadygrad.policies import POLICIES, parse_policy

OPTIMIZERS = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
    "SGD fused": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9, fused=True),
    "RMSprop": lambda params: torch.optim.RMSprop(params, lr=0.005),
    "Adagrad": lambda params: torch.optim.Adagrad(params, lr=0.05),
    "Adam": lambda params: torch.optim.Adam(params, lr=0.01),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=0.01),
    "AdamW fused": lambda params: torch.optim.AdamW(params, lr=0.01, fused=True),
    "NAdam": lambda params: torch.optim.NAdam(params, lr=0.01),
    "RAdam": lambda params: torch.optim.RAdam(params, lr=0.01),
    "Adafactor": lambda params: torch.optim.Adafactor(params, lr=0.05),
    "Muon": lambda params: torch.optim.Muon([p for p in params if p.dim() == 2], lr=0.01),
    "LBFGS": lambda params: torch.optim.LBFGS(params, lr=0.1, max_iter=4),
}
SCHEDULES = {
    "constant": None,
    "one cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.02, 31, cycle_momentum=False),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=30),
}
WITH_SECOND_MOMENT = {"Adam", "AdamW", "AdamW fused", "NAdam", "RAdam"}


def train(kind, policy, schedule=None, steps=8, bad_step=4):
    """A small regression with one step whose batch holds a NaN; returns the losses, the guard and the model."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.randn(64, 4)
    y = x.sum(1, keepdim=True).sin()
    optimizer = OPTIMIZERS[kind](list(model.parameters()))
    guard = sg.Guard(optimizer, sg.chain(sg.skip_nonfinite(), policy), model=model)
    scheduler = schedule(optimizer) if schedule else None
    losses = []
    for step in range(steps):
        inputs = x.clone()
        inputs[0, 0] = math.nan if step == bad_step else inputs[0, 0]

        def closure(inputs=inputs):
            optimizer.zero_grad()
            loss = (model(inputs) - y).square().mean()
            loss.backward()
            return loss

        losses.append(optimizer.step(closure).item())
        if scheduler:
            scheduler.step()
    return losses, guard, model


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("name", [name for name in SAMPLES if name in POLICIES])
def test_policy_with_optimizer(name, kind):
    policy = parse_policy(SAMPLES[name])
    if policy.needs & {"second_moment", "update_rms"} and kind not in WITH_SECOND_MOMENT:
        with pytest.raises(UnsupportedError, match="policy-optimizer"):
            train(kind, policy)
        return
    losses, guard, model = train(kind, policy)
    assert guard.num_skipped == 1
    assert all(torch.isfinite(p).all() for p in model.parameters())
    finite = [loss for loss in losses if math.isfinite(loss)]
    assert len(finite) == len(losses) - 1
    # Constraints may ask for other weights than the loss does, and LBFGS infers curvature from differences of gradients, which
    # most policies change.
    if not policy.constraints and kind != "LBFGS":
        assert finite[-1] < 3 * finite[0]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", [kind for kind in OPTIMIZERS if kind != "LBFGS"])
def test_optimizer_with_schedule(kind, schedule):
    losses, guard, _ = train(kind, sg.clip_by_global_norm(1.0), SCHEDULES[schedule], steps=30)
    assert guard.num_skipped == 1
    assert losses[-1] < losses[0]
