"""One read of every gradient: gradients in, readings out.

``select`` chooses the engine and says why; ``cpu`` and ``foreach`` are the engines, ``units``, ``update_rms`` and ``groups`` what
they read beside whole gradients; ``reference`` is their naive twin in NumPy, which the tests hold both against. Import the
modules themselves: this package imports nothing, so that the twin can be used without torch.
"""
