"""Linear regression by gradient descent in NumPy, its gradients clipped by a steadygrad policy. No torch is imported.

python examples/linear_regression.py

The learning rate begins above 2 / (largest curvature), where gradient descent diverges, and halves every 2000 steps. Bare,
the weights overflow before the learning rate has become small enough. Clipped, no step is longer than the learning rate
times `max_norm`, so the weights stay where they are until it has, and then settle at the least-squares solution.
"""

import argparse

import numpy as np
from sklearn.datasets import load_diabetes

import steadygrad as sg

# -----------------------------------------------------------------------------
# configuration; every value can be changed on the command line: --lr 0.1
steps = 5000
lr = 1.0
half_life = 2000
max_norm = 1.0
log_every = 250
# -----------------------------------------------------------------------------
config = {k: v for k, v in globals().items() if isinstance(v, int | float) and not k.startswith("_")}
parser = argparse.ArgumentParser()
for key, value in config.items():
    parser.add_argument(f"--{key.replace('_', '-')}", dest=key, type=type(value), default=value)
globals().update(vars(parser.parse_args()))

# data: 442 patients, ten measurements, the progress of their diabetes after a year
x, y = load_diabetes(return_X_y=True)
x = (x - x.mean(0)) / x.std(0)

design = np.column_stack([x, np.ones(len(x))])
exact = np.linalg.lstsq(design, y, rcond=None)[0]
curvature = np.linalg.eigvalsh(design.T @ design / len(x))[-1]
print(f"learning rate {lr}; gradient descent diverges above 2 / {curvature:.3f} = {2 / curvature:.3f}")


def train(limiter=None):
    weight, bias = np.zeros(10), np.zeros(1)
    for step in range(1, steps + 1):
        residual = x @ weight + bias - y
        grads = [x.T @ residual / len(x), residual.mean(keepdims=True)]
        if limiter is None:
            norm = np.sqrt(sum(np.sum(g**2) for g in grads))
        else:
            grads = limiter(grads)
            norm = limiter.total_norm  # as it was before clipping
        rate = lr * 0.5 ** ((step - 1) / half_life)
        weight, bias = weight - rate * grads[0], bias - rate * grads[1]
        if step % log_every == 0 or step == steps:
            error = np.linalg.norm(np.append(weight, bias) - exact) / np.linalg.norm(exact)
            print(f"step {step:6d} | loss {np.mean(residual**2) / 2:10.4g} | gradient norm {norm:9.3g} | distance {error:.2e}")
    return error


print("\nbare")
with np.errstate(over="ignore", invalid="ignore"):  # the overflow is what this part shows
    bare = train()

policy = sg.clip_by_global_norm(max_norm)
print(f"\n{policy}")
clipped = train(sg.Limiter(policy))

print(f"\nrelative distance to the least-squares solution: bare {bare:.1e}, clipped {clipped:.1e}")
