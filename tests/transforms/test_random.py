"""Streams that belong to a seed, a step, a name and a shard."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steadygrad.transforms.random import generator

PRINT = """
import torch
from steadygrad.transforms.random import generator
print(torch.randn(20, generator=generator("cpu", 3, 5, "layer.weight", {shard})).tolist())
"""


def draw(*args, n=4):
    return torch.randint(2**62, (n,), generator=generator("cpu", *args)).tolist()


def in_another_process(shard, salt):
    env = {**os.environ, "PYTHONHASHSEED": salt}
    return subprocess.run(
        [sys.executable, "-c", PRINT.format(shard=shard)], env=env, capture_output=True, text=True, check=True
    ).stdout


def test_two_processes_draw_alike_for_one_shard_and_differently_for_two():
    here = torch.randn(20, generator=generator("cpu", 3, 5, "layer.weight")).tolist()
    assert in_another_process(0, "1") == in_another_process(0, "2") == f"{here}\n"
    assert in_another_process(1, "1") != f"{here}\n"


names = st.text(max_size=3) | st.sampled_from(["1", "1:1"])
arguments = st.tuples(st.integers(-3, 3), st.integers(0, 12), names, st.integers(0, 12))


@given(arguments, arguments)
def test_streams_are_equal_exactly_where_the_arguments_are(a, b):
    assert (draw(*a) == draw(*b)) == (a == b)


def test_the_programs_own_random_numbers_are_not_touched():
    before = torch.get_rng_state()
    draw(0, 0, "w")
    assert torch.get_rng_state().equal(before)


def test_a_stream_does_not_depend_on_what_was_drawn_before():
    first = generator("cpu", 0, 1, "w")
    torch.rand(100, generator=first)
    assert draw(0, 1, "w") == draw(0, 1, "w")


def test_no_neighbouring_streams_look_alike():
    """Over steps, names and shards the numbers are uniform and uncorrelated: 20000 of them, within four standard errors."""
    streams = [
        torch.rand(10, generator=generator("cpu", 0, step, f"layers.{i}", shard), dtype=torch.float64)
        for step in range(20)
        for i in range(50)
        for shard in range(2)
    ]
    table = torch.stack(streams)
    assert abs(float(table.mean()) - 0.5) < 4 * (1 / 12) ** 0.5 / table.numel() ** 0.5
    centred = table - 0.5
    assert abs(float((centred[1:] * centred[:-1]).mean()) * 12) < 4 / table.numel() ** 0.5


@pytest.mark.parametrize("seed", [2**70, -(2**70), 0])
def test_any_integer_is_a_seed(seed):
    assert draw(seed, 0, "w") == draw(seed, 0, "w")
