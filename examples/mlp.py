"""Three fully connected layers on scikit-learn's handwritten digits (8 x 8 pixels), trained with Adam.

python examples/mlp.py
python examples/mlp.py --steps 50 --lr 0.01
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

# -----------------------------------------------------------------------------
# configuration; every value can be changed on the command line: --lr 0.01
steps = 1000
batch_size = 64
lr = 2e-3
hidden = 128
log_every = 100
seed = 0
# -----------------------------------------------------------------------------
config = {k: v for k, v in globals().items() if isinstance(v, int | float) and not k.startswith("_")}
parser = argparse.ArgumentParser()
for key, value in config.items():
    parser.add_argument(f"--{key.replace('_', '-')}", dest=key, type=type(value), default=value)
globals().update(vars(parser.parse_args()))

torch.manual_seed(seed)

# data: 1797 images; the last 297 of a fixed shuffle are kept for the test
images, labels = load_digits(return_X_y=True)
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
x = torch.tensor(images, dtype=torch.float32)[order] / 16  # pixels are 0 to 16
y = torch.tensor(labels)[order]
x_train, y_train, x_test, y_test = x[:1500], y[:1500], x[1500:], y[1500:]

model = nn.Sequential(
    nn.Linear(64, hidden),
    nn.ReLU(),
    nn.Linear(hidden, hidden),
    nn.ReLU(),
    nn.Linear(hidden, 10),
)
optimizer = torch.optim.Adam(model.parameters(), lr=lr)


@torch.no_grad()
def test_accuracy():
    return (model(x_test).argmax(1) == y_test).float().mean().item()


for step in range(1, steps + 1):
    batch = torch.randint(len(x_train), (batch_size,))
    loss = F.cross_entropy(model(x_train[batch]), y_train[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % log_every == 0 or step == steps:
        print(f"step {step:5d} | loss {loss.item():.4f} | test accuracy {test_accuracy():.3f}")

print(f"final test accuracy {test_accuracy():.3f}")
