"""Transforms: policies that rewrite gradient elements. One family a file.

Each costs one more read and write of every gradient, or more, which its docstring says. Most of them import torch, so nothing
is imported here: take them from the package (``steadygrad.centralize``) or from their files.
"""
