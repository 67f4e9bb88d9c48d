"""Parameter shapes of real models, written out by rule so that no model has to be loaded."""

from __future__ import annotations

Shapes = list[tuple[int, ...]]


def gpt2() -> Shapes:
    """GPT-2 small: 124.4 M parameters in 148 tensors."""
    width, layers = 768, 12
    block: Shapes = [(width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,)]
    block += [(width,), (width,), (4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [(50257, width), (1024, width), *block * layers, (width,), (width,)]


def resnet50() -> Shapes:
    """ResNet-50: 25.6 M parameters in 161 tensors."""
    shapes: Shapes = [(64, 3, 7, 7), (64,), (64,)]
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            for shape in ((width, channels, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)):
                shapes += [shape, (shape[0],), (shape[0],)]
            if block == 0:
                shapes += [(4 * width, channels, 1, 1), (4 * width,), (4 * width,)]
            channels = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def many_small() -> Shapes:
    """1000 matrices of 64 x 64: 4.1 M parameters."""
    return [(64, 64)] * 1000


def lenet5() -> Shapes:
    """LeNet-5 on 28 x 28 images: 61.7 k parameters in 10 tensors."""
    return [(6, 1, 5, 5), (6,), (16, 6, 5, 5), (16,), (120, 400), (120,), (84, 120), (84,), (10, 84), (10,)]


MODELS = {"GPT-2 124M": gpt2, "ResNet-50": resnet50, "1000 x 64x64": many_small, "LeNet-5": lenet5}
