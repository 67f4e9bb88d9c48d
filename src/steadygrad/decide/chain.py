"""Several policies as one: each sees the readings as the one before it will have left them, by arithmetic alone.

The shape is that of Optax's ``chain``. Deviation: nothing is read again between two policies, because readings are closed
under scaling. Only after a policy that rewrites elements must the gradients be measured anew; there the chain is cut into stages.
"""

from __future__ import annotations

from typing import Any, NoReturn

from steadygrad.checks import show
from steadygrad.decision import Decision
from steadygrad.errors import ArgumentTypeError, UnsupportedError
from steadygrad.policy import NO_NEEDS, Constraint, Policy, State, expression
from steadygrad.readings import Readings


def chain(*policies: Policy) -> Policy:
    """Several policies, one after the other, as one policy.

    ``scale = s_1 * s_2 * ...``, where policy k decides on readings already multiplied by ``s_1 * ... * s_(k-1)``. One read
    and one write serve the whole chain. A step is skipped where any policy skips it, and the most severe reason is reported.

    Chains inside chains are flattened; a chain of one policy is that policy; a chain of none leaves gradients as they are.
    A policy that rewrites elements (`clip_by_value`) may be followed by another one only at the price of a new measurement:
    then `stages` holds the policies between two measurements, and `init` and `decide` of the chain itself raise.

    Args:
        *policies: in the order in which they act.

    Returns:
        The policy. Its state holds that of policy k under keys that begin with ``"k."``.

    Raises:
        ArgumentTypeError: an argument is no policy.

    Example:
        >>> import numpy as np, steadygrad as sg
        >>> policy = sg.chain(sg.skip_nonfinite(), sg.clip_by_norm(3.0), sg.clip_by_global_norm(2.5, eps=0.0))
        >>> readings = sg.Readings(sg.Layout(("a", "b")), np, np.array([9.0, 64.0]))
        >>> decision, state = policy.decide(readings, policy.init(readings))
        >>> (decision.scale * readings.norms()).round(6)
        array([1.767767, 1.767767])
        >>> list(state)
        ['0.consecutive']
    """
    flat: list[Policy] = []
    for position, policy in enumerate(policies):
        if not isinstance(policy, Policy):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArgumentTypeError(
                f"`chain` expected policies, got {show(policy)} at position {position}", slug="policy-expected"
            )
        flat.extend(parts_of(policy))
    if len(flat) == 1:
        return flat[0]
    stages = _stages(flat)
    return _staged(flat, stages) if len(stages) > 1 else _joined(flat)


def parts_of(policy: Policy) -> tuple[Policy, ...]:
    """The policies that a chain was made of; of any other policy, itself."""
    owner = getattr(policy.decide, "__self__", None)
    return owner.parts if isinstance(owner, (_Joined, _Staged)) else (policy,)


class _Joined:
    """The two functions of a chain that needs one measurement."""

    def __init__(self, parts: tuple[Policy, ...]) -> None:
        self.parts = parts
        self._prefixes = [f"{index}." for index in range(len(parts))]

    def init(self, readings: Readings) -> State:
        state: State = {}
        for prefix, policy in zip(self._prefixes, self.parts, strict=True):
            state.update({prefix + key: value for key, value in policy.init(readings).items()})
        return state

    def decide(self, readings: Readings, state: State) -> tuple[Decision, State]:
        xp, total, after = readings.xp, Decision(), State()
        last = len(self.parts) - 1
        for index, (prefix, policy) in enumerate(zip(self._prefixes, self.parts, strict=True)):
            own = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)} if state else state
            decision, own = policy.decide(readings, own)
            after.update({prefix + key: value for key, value in own.items()})
            total = total.then(decision, xp)
            if index < last and decision.scale is not None:
                readings = readings.scaled(decision.scale)
        return total, after


class _Staged:
    """The two functions of a chain that must measure on the way: they only say so."""

    def __init__(self, parts: tuple[Policy, ...], text: str) -> None:
        self.parts = parts
        self._text = text

    def init(self, readings: Readings) -> State:
        self._refuse()

    def decide(self, readings: Readings, state: State) -> tuple[Decision, State]:
        self._refuse()

    def _refuse(self) -> NoReturn:
        message = (
            f"`{self._text}` rewrites gradient elements before its last policy, so one set of readings cannot serve it: "
            "run each policy of its `stages` on readings of its own, or move `clip_by_value` to the end"
        )
        raise UnsupportedError(message, slug="chain-stages")


def _joined(flat: list[Policy]) -> Policy:
    functions = _Joined(tuple(flat))
    rewrites = any(policy.rewrites for policy in flat)
    rewrite = flat[-1].rewrite if flat else None
    text, constraints = expression("chain", *flat), _constraints(flat)
    return Policy(functions.init, functions.decide, text, _all_needs(flat), rewrites, rewrite=rewrite, constraints=constraints)


def _staged(flat: list[Policy], stages: list[list[Policy]]) -> Policy:
    text = expression("chain", *flat)
    functions = _Staged(tuple(flat), text)
    policies: tuple[Any, ...] = tuple(chain(*stage) for stage in stages)
    needs, rewrites = _all_needs(flat), policies[-1].rewrites
    return Policy(functions.init, functions.decide, text, needs, rewrites, policies, constraints=_constraints(flat))


def _stages(flat: list[Policy]) -> list[list[Policy]]:
    """Cut after each policy that rewrites, unless it is the last, and before a reading that cannot be had by arithmetic."""
    stages: list[list[Policy]] = [[]]
    for policy in flat:
        if stages[-1] and (stages[-1][-1].rewrites or "update_rms" in policy.needs):
            stages.append([])
        stages[-1].append(policy)
    return stages


def _constraints(policies: list[Policy]) -> tuple[Constraint, ...]:
    return tuple(constraint for policy in policies for constraint in policy.constraints)


def _all_needs(policies: list[Policy]) -> frozenset[str]:
    return NO_NEEDS.union(*(policy.needs for policy in policies))
