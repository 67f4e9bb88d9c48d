"""LeNet-5 on handwritten digits: scikit-learn's embedded ones, or MNIST from its IDX files.

python examples/lenet5.py
python examples/lenet5.py --data path/to/mnist --steps 6000

The layers are those of LeCun et al., "Gradient-based learning applied to document recognition" (1998), with ReLU and
maximum pooling in the place of the scaled tanh and the trained averaging.
"""

import argparse
import gzip
import math
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

# -----------------------------------------------------------------------------
# configuration; every value can be changed on the command line: --lr 0.01
data = ""  # a directory with the four MNIST files, plain or .gz; empty: the embedded digits
steps = 800
batch_size = 64
lr = 2e-3
log_every = 100
seed = 0
# -----------------------------------------------------------------------------
config = {k: v for k, v in globals().items() if isinstance(v, int | float | str) and not k.startswith("_")}
parser = argparse.ArgumentParser()
for key, value in config.items():
    parser.add_argument(f"--{key.replace('_', '-')}", dest=key, type=type(value), default=value)
globals().update(vars(parser.parse_args()))

torch.manual_seed(seed)


def read_idx(name):
    """The array in an IDX file: two zero bytes, a type (8: bytes), the number of axes, the axes, the data."""
    path = Path(data) / name
    raw = path.read_bytes() if path.exists() else gzip.decompress(path.with_name(name + ".gz").read_bytes())
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return torch.tensor(np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape))


# the network reads 32 x 32 pixels, as in the paper: MNIST gets a border, the 8 x 8 digits are enlarged
if data:
    x_train, x_test = (F.pad(read_idx(f"{part}-images-idx3-ubyte") / 255, (2, 2, 2, 2)) for part in ("train", "t10k"))
    y_train, y_test = (read_idx(f"{part}-labels-idx1-ubyte").long() for part in ("train", "t10k"))
    x_train, x_test = x_train[:, None], x_test[:, None]
else:
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.float32)[order].reshape(-1, 1, 8, 8) / 16
    x = F.interpolate(x, size=(32, 32), mode="bilinear")
    y = torch.tensor(labels)[order]
    x_train, y_train, x_test, y_test = x[:1500], y[:1500], x[1500:], y[1500:]

model = nn.Sequential(
    nn.Conv2d(1, 6, 5),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(6, 16, 5),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(16, 120, 5),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(120, 84),
    nn.ReLU(),
    nn.Linear(84, 10),
)
optimizer = torch.optim.Adam(model.parameters(), lr=lr)


@torch.no_grad()
def test_accuracy():
    right = sum((model(xs).argmax(1) == ys).sum().item() for xs, ys in zip(x_test.split(500), y_test.split(500)))
    return right / len(y_test)


for step in range(1, steps + 1):
    # a learning rate that falls to zero settles the last tenths of a percent
    optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
    batch = torch.randint(len(x_train), (batch_size,))
    loss = F.cross_entropy(model(x_train[batch]), y_train[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % log_every == 0 or step == steps:
        print(f"step {step:5d} | loss {loss.item():.4f} | test accuracy {test_accuracy():.4f}")

print(f"final test accuracy {test_accuracy():.4f}")
