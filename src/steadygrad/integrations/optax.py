"""Policies as Optax transformations, for training loops in JAX.

The shape is that of Optax's `apply_if_finite` (DeepMind, "The DeepMind JAX Ecosystem", 2020): a transformation that may hold
another one and stop it. Deviations, and why:

- Without `inner` nothing behind can be stopped: a transformation hands on updates and has no other say. A skipped step then
  hands on zeros, from which Adam's moments still decay and weight decay still moves the weights.
- ``"param_norm:10"`` is read at every step. A branch that reads every tenth step would keep the parameters alive in both.
- An error cannot be raised under `jax.jit`, so "too many skipped steps in a row" is a flag in the state, and the steps are
  skipped all the same; :func:`raise_if_aborted` looks at it outside.
"""

from __future__ import annotations

# Where JAX and Optax are not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportMissingTypeStubs=false, reportPrivateImportUsage=false
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import optax
from jax import numpy as jnp

from steadygrad.checks import non_negative, one_of, show
from steadygrad.decision import Decision, Reason
from steadygrad.errors import ArgumentError, ArgumentTypeError, NonFiniteGradientError, UnsupportedError
from steadygrad.integrations.optax_inner import Handed, update_inside
from steadygrad.integrations.pytrees import Rows, accumulator, blank, measure, rows_of, written
from steadygrad.policy import Policy, State

_CALL = "steadygrad.integrations.optax.transform"
_OF_PARAMS = frozenset({"param_norm", "units"})
_OF_OPTIMIZER = frozenset({"update_rms", "second_moment"})
Array = Any


class PolicyState(NamedTuple):
    """What a policy keeps between steps: arrays and nothing else, so that any checkpointer saves it.

    Attributes:
        policy: the policy's own state, one dict of arrays for each measurement that it takes.
        inner: the state of the transformation inside; ``()`` where there is none.
        count: steps taken, shape ``()``; the schedule of the learning rate is read at it.
        num_skipped: steps skipped, shape ``()``.
        reason: a :class:`~steadygrad.decision.Reason` as an integer: why the last step was changed, shape ``()``.
        total_norm: 2-norm of the last step's gradients before anything was done, shape ``()``.
        aborted: true once more steps in a row were skipped than the policy allows; stays true, shape ``()``.
    """

    policy: tuple[State, ...]
    inner: Any
    count: Array
    num_skipped: Array
    reason: Array
    total_norm: Array
    aborted: Array


class _Outcome(NamedTuple):
    """What all stages of a policy made of one step."""

    updates: Any
    states: tuple[State, ...]
    decision: Decision
    total_norm: Array


def transform(
    policy: Policy,
    inner: optax.GradientTransformation | None = None,
    *,
    learning_rate: float | Callable[[Array], Array] | None = None,
    units: str = "last",
) -> optax.GradientTransformationExtraArgs:
    """A policy as an Optax transformation, for use under `jax.jit`, in `optax.chain` and with `optax.apply_updates`.

    ``updates <- clamp(scale_i * g_i)``, and then ``inner``'s update of them. Give the optimizer as `inner`: then a skipped step
    has updates of zero and leaves the optimizer's state as it was, bit for bit. Without it a skipped step hands on zeros,
    from which an optimizer behind it still takes a step: Adam's moments decay, momentum and weight decay move the parameters.

    Parameters are named by their paths in the tree, with dots: ``"dense.kernel"``, ``"layers.0.bias"``. ``None`` in a tree of
    gradients stands for a parameter without gradient. Readings are in float32, or in float64 where JAX computes in 64 bits; with
    several devices, gradients must be those of the whole batch, as under `jax.jit` with sharded arrays or after `lax.pmean`.
    What a policy wants of the parameters is read at every step, also what a Guard reads at every tenth.

    Args:
        policy: a policy that scales, limits elements or skips: no transform that rewrites elements in torch, no constraint.
        inner: the transformation that gets the gradients, mostly the optimizer. A policy that leaves out single parameters
            or scales their updates needs it.
        learning_rate: what policies that compare updates with weights (`auto`, `weight_relative_clip`) take for it: a number
            >= 0 or a schedule from the number of steps taken. Give the optimizer's own.
        units: which dimension of an array of two and more counts units: ``"last"`` as in Flax, Haiku and Keras, or
            ``"first"`` as in Equinox.

    Returns:
        The transformation. Its state is a :class:`PolicyState`.

    Raises:
        ArgumentTypeError: no policy, or a gradient that is not floating point.
        ArgumentError: the policy needs the learning rate and got none; in ``update``: it needs the parameters and got none.
        UnsupportedError: the policy rewrites elements, limits parameters after the step, or reads the optimizer's state; in
            ``update``: it leaves out parameters and there is no `inner`, or it bounds elements of a complex array.

    Example:
        >>> import steadygrad as sg
        >>> from jax import numpy as jnp
        >>> optimizer = transform(sg.clip_by_global_norm(1.0, eps=0.0), inner=optax.sgd(1.0))
        >>> params = {"w": jnp.array([0.0, 0.0])}
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update({"w": jnp.array([3.0, 4.0])}, state, params)
        >>> [round(value, 6) for value in optax.apply_updates(params, updates)["w"].tolist()]
        [-0.6, -0.8]
        >>> updates, state = optimizer.update({"w": jnp.array([jnp.nan, 4.0])}, state, params)
        >>> updates["w"].tolist(), sg.decision.Reason(int(state.reason)).name
        ([0.0, 0.0], 'NON_FINITE')

    Reference:
        DeepMind, "The DeepMind JAX Ecosystem", 2020, https://github.com/google-deepmind
    """
    _require_pure(policy)
    rate = _rate(policy, learning_rate)
    rows = rows_of(one_of(_CALL, "units", units, ("last", "first")) == "last")
    engine = _Engine(policy, policy.stages or (policy,), rate)
    wrapped = None if inner is None else optax.with_extra_args_support(inner)

    def init(params: Any) -> PolicyState:
        zero = jnp.zeros((), jnp.int32)
        return PolicyState(
            policy=engine.init(rows(params, gradients=False)),
            inner=() if wrapped is None else wrapped.init(params),
            count=zero,
            num_skipped=zero,
            reason=zero,
            total_norm=jnp.zeros((), accumulator()),
            aborted=jnp.zeros((), jnp.bool_),
        )

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, PolicyState]:
        given = rows(updates)
        weights = () if params is None else rows(params, gradients=False).arrays
        outcome = engine.run(given, state, weights)
        skip = jnp.asarray(False if outcome.decision.skip is None else outcome.decision.skip)
        if wrapped is None:
            moved, after = _zeroed(given, outcome, skip, policy), ()
        else:
            handed = Handed(given, outcome.updates, outcome.decision, params, extra)
            moved, after = update_inside(wrapped, handed, state.inner)
        return moved, _next(state, outcome, skip, after)

    return optax.GradientTransformationExtraArgs(init, update)


def raise_if_aborted(state: Any) -> None:
    """Raise where a policy found too many steps in a row that are not finite. Outside of `jax.jit`; waits for the device.

    Args:
        state: a :class:`PolicyState`, or an optimizer's state that holds some.

    Raises:
        NonFiniteGradientError: more steps in a row were skipped than the policy allows.

    Example:
        >>> import steadygrad as sg
        >>> from jax import numpy as jnp
        >>> optimizer = transform(sg.skip_nonfinite(max_consecutive=1), inner=optax.sgd(1.0))
        >>> state = optimizer.init({"w": jnp.zeros(2)})
        >>> raise_if_aborted(state)
    """
    found = jax.tree_util.tree_leaves(state, is_leaf=lambda node: isinstance(node, PolicyState))
    for node in found:
        if isinstance(node, PolicyState):
            raise_if_aborted(node.inner)
            if bool(node.aborted):
                raise NonFiniteGradientError(
                    f"{Reason.TOO_MANY_NON_FINITE.message}; parameters are as before the first of them; "
                    f"lower the learning rate, or look for the cause there",
                    slug="too-many-nonfinite",
                )


class _Engine(NamedTuple):
    """Runs the stages of a policy: for each one measurement, one decision, one write."""

    policy: Policy
    stages: tuple[Policy, ...]
    rate: Callable[[Array], Array] | None

    def init(self, rows: Rows) -> tuple[State, ...]:
        first = blank(rows.layout, self.policy.needs)
        return tuple({key: _on_device(value) for key, value in stage.init(first).items()} for stage in self.stages)

    def run(self, rows: Rows, state: PolicyState, params: Sequence[Array | None]) -> _Outcome:
        self._require_params(rows, params)
        lr = 0.0 if self.rate is None else self.rate(state.count)
        total, whole, states = jnp.zeros((), accumulator()), Decision(), ()
        for index, (stage, old) in enumerate(zip(self.stages, state.policy, strict=True)):
            measured = measure(rows, stage.needs, params, lr)
            if index == 0:
                total = measured.readings.total_norm()
            decision, new = stage.decide(measured.readings, old)
            states += (_kept(old, new, whole.skip),)
            rows = rows._replace(arrays=written(rows, measured, decision))
            if whole.skip is not None and decision.abort is not None:
                decision = replace(decision, abort=decision.abort & ~whole.skip)
            whole = whole.then(decision, jnp)
        return _Outcome(rows.arrays, states, whole, total)

    def _require_params(self, rows: Rows, params: Sequence[Array | None]) -> None:
        if not any(need.partition(":")[0] in _OF_PARAMS for need in self.policy.needs):
            return
        if not params and len(rows.layout):
            raise ArgumentError(
                f"`update` expected the parameters, which `{self.policy.text}` compares gradients with; "
                f"call `update(updates, state, params)`",
                slug="params-missing",
            )
        if len(params) != len(rows.layout):
            raise ArgumentError(
                f"`update` expected as many parameters as gradients, got {len(params)} and {len(rows.layout)}",
                slug="gradient-count",
            )


def _on_device(value: Any) -> Array:
    return value if isinstance(value, jax.Array) else jnp.array(np.asarray(value))


def _kept(old: State, new: State, skipped: Array | None) -> State:
    """The next state in the types of the one before, as loops under `jax.jit` demand; after a skip on the way, the old one."""
    cast_state = {key: jnp.asarray(new[key]).astype(value.dtype) for key, value in old.items()}
    if skipped is None:
        return cast_state
    return {key: jnp.where(skipped, old[key], value) for key, value in cast_state.items()}


def _zeroed(rows: Rows, outcome: _Outcome, skip: Array, policy: Policy) -> Any:
    """The updates for a transformation behind; zeros for a step that is skipped."""
    if outcome.decision.withhold is not None or outcome.decision.update_scale is not None:
        raise UnsupportedError(
            f"`{policy.text}` acts on what the optimizer makes of single gradients, which needs the optimizer: "
            f"`{_CALL}(policy, inner=optimizer)`",
            slug="inner-missing",
        )
    return rows.tree([None if array is None else jnp.where(skip, 0, array).astype(array.dtype) for array in outcome.updates])


def _next(state: PolicyState, outcome: _Outcome, skip: Array, inner: Any) -> PolicyState:
    skipped, decision = skip.astype(jnp.int32), outcome.decision
    return PolicyState(
        policy=outcome.states,
        inner=inner,
        count=state.count + (1 - skipped),
        num_skipped=state.num_skipped + skipped,
        reason=jnp.asarray(decision.reason).astype(jnp.int32),
        total_norm=outcome.total_norm.astype(state.total_norm.dtype),
        aborted=state.aborted if decision.abort is None else state.aborted | decision.abort,
    )


def _require_pure(policy: Any) -> None:
    """Say at once what could never work."""
    if not isinstance(policy, Policy):
        raise ArgumentTypeError(f"`{_CALL}` expected a policy, got {show(policy)}", slug="policy-expected")
    if policy.constraints or any(cast(Policy, stage).rewrite is not None for stage in policy.stages or (policy,)):
        what = "limits parameters after the step" if policy.constraints else "rewrites gradient elements by torch"
        message = f"`{_CALL}` scales gradients, limits their elements and skips steps; `{policy.text}` {what}: take a Guard"
        raise UnsupportedError(message, slug="optax-unsupported")
    missing = sorted(_OF_OPTIMIZER & policy.needs)
    if missing:
        message = f"`{_CALL}` knows nothing of the optimizer, but `{policy.text}` needs its {', '.join(missing)}: take a Guard"
        raise UnsupportedError(message, slug="reading-unknown")


def _rate(policy: Policy, learning_rate: Any) -> Callable[[Array], Array] | None:
    """The learning rate as a function of the number of steps taken."""
    if learning_rate is None:
        if "lr" in policy.needs:
            message = (
                f"`{_CALL}` expected `learning_rate`, a number or a schedule, because `{policy.text}` compares updates with it"
            )
            raise ArgumentError(message, slug="learning-rate-missing")
        return None
    if callable(learning_rate):
        return cast("Callable[[Array], Array]", learning_rate)
    rate = non_negative(_CALL, "learning_rate", learning_rate)
    return lambda count: rate
