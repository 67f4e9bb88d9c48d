"""Transforms: policies that rewrite gradient elements. One family a file.

Each costs one more read and write of every gradient, which its docstring says.
"""

from steadygrad.transforms.value import clip_by_value

__all__ = ["clip_by_value"]
