"""Handwritten digits with plain settings: LeNet-5, and a recurrent network that reads one pixel at a time.

The images are scikit-learn's 8 x 8 ones, 1500 to train and 297 to test. Each network trains at a good learning rate and at 3 and
10 times that.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from protect import Protected
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

BATCH, MOMENTUM = 50, 0.9
GOOD = {"lenet": 0.1, "lenet adam": 0.002, "pixels": 0.01}
STEPS = {"lenet": 400, "lenet adam": 400, "pixels": 1000}


class LeNet(nn.Module):
    """LeNet-5 (LeCun et al. 1998) with smaller images: padded to 16 x 16, so that two poolings leave 2 x 2."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)),
            *(nn.Flatten(), nn.Linear(64, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scores of the classes."""
        return self.body(F.pad(pixels.reshape(-1, 1, 8, 8), (4, 4, 4, 4)))


class PixelReader(nn.Module):
    """A ReLU recurrent network whose gradient passes 64 times through one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(1, 100, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(100, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scores of the classes."""
        return self.head(self.rnn(pixels)[0][:, -1])


def _data() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return torch.tensor(images, dtype=torch.float32)[order, :, None] / 16, torch.tensor(labels)[order]


def run(policy: Any, seed: int, *, net: str, times: float) -> dict[str, Any]:
    """Train with a learning rate that falls along half a cosine; final test loss and accuracy."""
    torch.manual_seed(seed)
    model = PixelReader() if net == "pixels" else LeNet()
    lr, steps = GOOD[net] * times, STEPS[net]
    params = model.parameters()
    optimizer = torch.optim.Adam(params, lr=lr) if "adam" in net else torch.optim.SGD(params, lr=lr, momentum=MOMENTUM)
    guarded = Protected(optimizer, model, policy)
    x, y = _data()
    draws = torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        chosen = torch.randint(1500, (BATCH,), generator=draws)
        loss = F.cross_entropy(model(x[chosen]), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        guarded.step()
    with torch.no_grad():
        scores = model(x[1500:])
        accuracy = float((scores.argmax(1) == y[1500:]).float().mean())
        loss_after = float(F.cross_entropy(scores, y[1500:]))
    touched = guarded.touched
    return {
        "accuracy": accuracy,
        "loss": loss_after if math.isfinite(loss_after) else None,
        "touched": sum(touched) / len(touched),
    }
