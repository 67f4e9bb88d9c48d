"""A policy on NumPy arrays: for gradients that were computed without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast, overload

import numpy as np

from steadygrad.decision import Decision, Reason
from steadygrad.errors import ArgumentError, ArgumentTypeError, NonFiniteGradientError, UnsupportedError
from steadygrad.measure.reference import measure_arrays
from steadygrad.policy import Policy, State
from steadygrad.readings import Layout, Readings

Key = TypeVar("Key", bound=str)
_NOT_OF_GRADIENTS = frozenset({"param_norm", "units", "lr", "update_rms", "second_moment"})
Array = Any
Arrays = list[Array]


class Limiter:
    """Applies a policy to the NumPy gradients of one step after the other, and keeps its state.

    A step that must not be taken gives ``None`` instead of gradients: gradients of zero would still let momentum and weight decay
    move the parameters.

    Args:
        policy: any policy that needs gradients only.
        names: one name per array, for `masked` and for messages; otherwise their positions, or the keys of a mapping.

    Attributes:
        readings: what was measured in the last step before anything was done; ``None`` before the first.
        decisions: what was decided in the last step, one decision for each measurement.
        skipped: whether the last step must not be taken.

    Raises:
        ArgumentTypeError: no policy.
        UnsupportedError: the policy needs the parameters or the optimizer, or rewrites elements by torch.

    Example:
        >>> import steadygrad as sg
        >>> limiter = sg.Limiter(sg.clip_by_global_norm(1.0, eps=0.0))
        >>> limiter([np.array([3.0, 0.0]), np.array([4.0])])
        [array([0.6, 0. ]), array([0.8])]
        >>> limiter.total_norm
        5.0
        >>> grads = limiter([np.array([np.nan, 0.0]), np.array([4.0])])
        >>> if grads is None:
        ...     print("step skipped:", limiter.reason.name)
        step skipped: NON_FINITE
    """

    def __init__(self, policy: Policy, names: Sequence[str] | None = None) -> None:
        if not isinstance(policy, Policy):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArgumentTypeError(f"`Limiter` expected a policy, got {type(policy).__name__}", slug="policy-expected")
        _require_gradients_only(policy)
        self.policy = policy
        self.readings: Readings | None = None
        self.decisions: tuple[Decision, ...] = ()
        self.skipped = False
        self._names = None if names is None else tuple(names)
        self._stages: tuple[Policy, ...] = policy.stages or (policy,)
        self._states: list[State | None] = [None] * len(self._stages)
        self._loaded = False
        self._layout = Layout(())

    @property
    def total_norm(self) -> float:
        """2-norm of all gradients of the last step before anything was done; NaN before the first step."""
        return float("nan") if self.readings is None else float(self.readings.total_norm())

    @property
    def decision(self) -> Decision:
        """The last decision of the last step; `decisions` has those taken between measurements as well."""
        return self.decisions[-1] if self.decisions else Decision()

    @property
    def reason(self) -> Reason:
        """The most severe reason of the last step's decisions."""
        return Reason(max((int(decision.reason) for decision in self.decisions), default=0))

    @overload
    def __call__(self, grads: Mapping[Key, np.ndarray]) -> dict[Key, np.ndarray] | None: ...
    @overload
    def __call__(self, grads: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...] | None: ...
    @overload
    def __call__(self, grads: list[np.ndarray]) -> list[np.ndarray] | None: ...
    def __call__(self, grads: Any) -> Any:
        """Decide on one step's gradients and return them as they should be used.

        Args:
            grads: arrays in a list, a tuple or a mapping from name to array, of any shapes, real or complex floating point.
                They are not changed. ``None`` in the place of an array stands for a parameter without gradient and stays.

        Returns:
            New arrays of the same types in a container of the same kind, or ``None`` where this step must not be taken.

        Raises:
            ArgumentTypeError: no container of arrays, or an array that is not floating point.
            ArgumentError: not as many arrays as names.
            NonFiniteGradientError: the policy wants the training to stop.
            UnsupportedError: bounds on the elements of a complex array.
        """
        arrays, names = _opened(grads)
        if self._names is not None and not isinstance(grads, Mapping):
            names = self._names
        self._update_layout(arrays, names)
        limited = self._run_stages(arrays)
        if limited is None:
            return None
        if isinstance(grads, Mapping):
            return dict(zip(names, limited, strict=True))
        return tuple(limited) if isinstance(grads, tuple) else limited

    def state_dict(self) -> State:
        """A copy of the policy's state, flat, from text to NumPy array; empty before the first step."""
        return {
            prefix + key: np.array(value)
            for prefix, state in zip(self._prefixes(), self._states, strict=True)
            for key, value in (state or {}).items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned.

        Raises:
            ArgumentError: at the next step: it is the state of another policy.
        """
        states: list[State] = [
            {key[len(prefix) :]: np.array(value) for key, value in state.items() if key.startswith(prefix)}
            for prefix in self._prefixes()
        ]
        self._states = [own if state else None for own in states]
        self._loaded = len(state) > 0

    def _prefixes(self) -> list[str]:
        return [f"{index}." for index in range(len(self._stages))] if self.policy.stages else [""]

    def _update_layout(self, arrays: Arrays, names: tuple[str, ...]) -> None:
        """A new layout where names or shapes changed; what policies know of a layout is kept with it."""
        if len(arrays) != len(names):
            raise ArgumentError(f"`Limiter` expected {len(names)} arrays, one per name, got {len(arrays)}", slug="gradient-count")
        known = self._layout
        shapes = tuple(() if grad is None else grad.shape for grad in arrays)
        if names != known.names or shapes != known.shapes:
            dtypes = tuple("none" if grad is None else str(grad.dtype) for grad in arrays)
            self._layout = Layout(names, shapes=shapes, dtypes=dtypes)

    def _run_stages(self, arrays: Arrays) -> Arrays | None:
        """Measure, decide and apply, once per stage; ``None`` where a decision skips the step."""
        self.decisions, self.skipped = (), False
        for index, stage in enumerate(self._stages):
            readings = measure_arrays(arrays, self._layout, stage.needs)
            if index == 0:
                self.readings = readings
            decision, self._states[index] = stage.decide(readings, self._state(index, stage, readings))
            self.decisions += (decision,)
            if decision.abort is not None and bool(decision.abort):
                self.skipped = True
                raise NonFiniteGradientError(_abort_message(readings), slug="too-many-nonfinite")
            if decision.skip is not None and bool(decision.skip):
                self.skipped = True
                return None
            arrays = _withheld(_applied(arrays, decision), decision)
        return arrays

    def _state(self, index: int, stage: Policy, readings: Readings) -> State:
        """The state of a stage, made at its first step; a loaded one is compared with what the policy would have made."""
        state = self._states[index]
        if state is not None and not self._loaded:
            return state
        fresh = stage.init(readings)
        if state is None:
            return fresh
        if set(state) != set(fresh):
            keys = f"the keys {sorted(fresh)}, got {sorted(state)}"
            message = f"`Limiter.load_state_dict` expected the state of `{self.policy.text}`, with {keys}"
            raise ArgumentError(message, slug="state-mismatch")
        if index == len(self._stages) - 1:
            self._loaded = False
        return state


def _require_gradients_only(policy: Policy) -> None:
    """Say at once what would fail at the first step."""
    missing = sorted(need for need in policy.needs if need.partition(":")[0] in _NOT_OF_GRADIENTS)
    if missing:
        message = f"`Limiter` sees gradients only, but `{policy.text}` needs {', '.join(missing)} of parameters or optimizer"
        raise UnsupportedError(message, slug="reading-unknown")
    if policy.constraints or any(stage.rewrite is not None for stage in policy.stages or (policy,)):
        message = f"`Limiter` scales NumPy arrays and limits their elements; `{policy.text}` does more: take a Guard"
        raise UnsupportedError(message, slug="limiter-unsupported")


def _withheld(arrays: Arrays, decision: Decision) -> Arrays:
    """``None`` for the arrays that take no part in this step."""
    if decision.withhold is None:
        return arrays
    return [None if away else array for array, away in zip(arrays, decision.withhold, strict=True)]


def _opened(grads: Any) -> tuple[Arrays, tuple[str, ...]]:
    """The arrays in order, and their names."""
    if isinstance(grads, Mapping):
        mapping = cast("Mapping[str, Any]", grads)
        return [_as_array(grad, name) for name, grad in mapping.items()], tuple(mapping)
    if not isinstance(grads, (list, tuple)):
        kind = type(grads).__name__
        message = f"`Limiter` expected a list, a tuple or a mapping of arrays, got {kind}; put a single array into a list"
        raise ArgumentTypeError(message, slug="gradient-container")
    items = cast("Sequence[Any]", grads)
    names = tuple(str(index) for index in range(len(items)))
    return [_as_array(grad, name) for grad, name in zip(items, names, strict=True)], names


def _as_array(grad: Any, name: str) -> Array:
    """The gradient as an array; NumPy scalars and Python floats are arrays of shape ``()``."""
    if grad is None or isinstance(grad, np.ndarray):
        return cast(Array, grad)
    if isinstance(grad, (float, complex, np.generic)):
        return np.asarray(grad)
    message = f"`Limiter` expected NumPy arrays, got {type(grad).__name__} for {name!r}"
    raise ArgumentTypeError(message, slug="gradient-container")


def _applied(arrays: Arrays, decision: Decision) -> Arrays:
    """New arrays ``clamp(scale_i * g_i)``, each in its own data type."""
    scale = np.ones(len(arrays)) if decision.scale is None else np.broadcast_to(decision.scale, (len(arrays),))
    chosen = np.ones(len(arrays), bool) if decision.rows is None else decision.rows
    return [
        None if grad is None else _changed(grad, float(factor), decision.clamp if bounded else None)
        for grad, factor, bounded in zip(arrays, scale, chosen, strict=True)
    ]


def _changed(grad: Array, factor: float, clamp: tuple[Any, Any] | None) -> Array:
    if clamp is not None and grad.dtype.kind == "c":
        message = (
            f"`clip_by_value` expected real gradients, got {grad.dtype}: complex numbers have no order; limit a norm instead"
        )
        raise UnsupportedError(message, slug="complex-value-clip")
    if factor == 1.0 and clamp is None:
        return grad.copy()
    # In float64, so that a small factor keeps its digits and a half-precision product does not vanish on the way.
    wide = np.asarray(grad.astype(np.result_type(grad.dtype, np.float64)) * factor)
    return (wide if clamp is None else wide.clip(*clamp)).astype(grad.dtype)


def _abort_message(readings: Readings) -> str:
    bad = [name for name, value in zip(readings.names, readings.sum_sq, strict=True) if not np.isfinite(value)]
    named = f"{', '.join(bad[:5])}{', ...' if len(bad) > 5 else ''}"
    return (
        f"{Reason.TOO_MANY_NON_FINITE.message}; in the last of them: {named}; lower the learning rate or look for the cause there"
    )
