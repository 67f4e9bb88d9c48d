"""Constraints: what is done to the parameters after the optimizer's step. One family a file.

``update`` limits or rescales the update, ``trust`` scales the gradient by a trust ratio before it, ``weights`` bounds norms
of the weights, ``shrink`` is decoupled decay, ``attention`` bounds attention logits. All of them import torch, so nothing is
imported here: take them from the package (``steadygrad.limit_update_ratio``) or from their files.

A constraint leaves the gradient alone: its ``decide`` gives the neutral decision. It acts on each parameter that had a gradient,
after each step that was not skipped, so several in a chain act in their order. None waits for the device.
"""
