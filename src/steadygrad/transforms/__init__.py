"""Transforms: policies that rewrite gradient elements. Each costs one more read and write, which its docstring says. One family a file."""

from steadygrad.transforms.value import clip_by_value

__all__ = ["clip_by_value"]
