"""Copies to go back to."""

import torch
from torch import nn

from steadygrad.snapshot import restore_point


def test_parameters_and_state_come_back_bit_for_bit():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

    def step():
        optimizer.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()

    step()
    expected = [p.detach().clone() for p in model.parameters()]
    moments = [{k: v.clone() for k, v in optimizer.state[p].items()} for p in model.parameters()]
    restore = restore_point(optimizer)
    step()
    restore()
    for p, value, state in zip(model.parameters(), expected, moments, strict=True):
        assert torch.equal(p, value)
        assert all(torch.equal(optimizer.state[p][k], v) for k, v in state.items())
