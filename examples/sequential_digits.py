"""A recurrent network reads handwritten digits one pixel at a time: 64 steps of backpropagation through time.

python examples/sequential_digits.py

The task of Le, Jaitly and Hinton, "A simple way to initialize recurrent networks of rectified linear units" (2015,
https://arxiv.org/abs/1504.00941) on scikit-learn's embedded 8 x 8 digits. The gradient passes 64 times through the same
matrix; once the matrix stretches, the gradient grows without bound. This script does nothing about it.
"""

import argparse
import math

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

# -----------------------------------------------------------------------------
# configuration; every value can be changed on the command line: --lr 0.01
steps = 4500
batch_size = 50
lr = 0.03
momentum = 0.9
hidden = 100
log_every = 300
seed = 0
# -----------------------------------------------------------------------------
config = {k: v for k, v in globals().items() if isinstance(v, int | float) and not k.startswith("_")}
parser = argparse.ArgumentParser()
for key, value in config.items():
    parser.add_argument(f"--{key.replace('_', '-')}", dest=key, type=type(value), default=value)
globals().update(vars(parser.parse_args()))

torch.manual_seed(seed)
torch.set_num_threads(1)  # matrices this small gain nothing from a second thread

# data: 1797 images; the last 297 of a fixed shuffle are kept for the test
images, labels = load_digits(return_X_y=True)
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
x = torch.tensor(images, dtype=torch.float32)[order, :, None] / 16  # (image, pixel, 1); pixels are 0 to 16
y = torch.tensor(labels)[order]
x_train, y_train, x_test, y_test = x[:1500], y[:1500], x[1500:], y[1500:]


class PixelReader(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(1, hidden, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(hidden, 10)

    def forward(self, pixels):
        states, _ = self.rnn(pixels)
        return self.head(states[:, -1])  # the class is read off after the last pixel


model = PixelReader()
optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)


@torch.no_grad()
def test_accuracy():
    return (model(x_test).argmax(1) == y_test).float().mean().item()


for step in range(1, steps + 1):
    # the learning rate falls to zero along half a cosine
    optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
    batch = torch.randint(len(x_train), (batch_size,))
    loss = F.cross_entropy(model(x_train[batch]), y_train[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % log_every == 0 or step == steps:
        print(f"step {step:5d} | loss {loss.item():9.4g} | test accuracy {test_accuracy():.3f}")

print(f"final test accuracy {test_accuracy():.3f} (guessing: 0.1)")
