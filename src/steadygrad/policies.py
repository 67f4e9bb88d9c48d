"""The policies by name, and the way from a policy's text back to the policy.

The text is a Python expression of a small kind: calls of the names below, numbers, strings, tuples, ``None``, ``inf``. It is read
with :mod:`ast` and never evaluated as Python: a name that is not in the table is an error, whatever it means elsewhere.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

from steadygrad.checks import show
from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.policy import Policy

_HOME = {
    "acclip": "transforms.coordinate",
    "adaclip": "transforms.adaclip",
    "adagc": "decide",
    "adaptive_grad_clip": "decide",
    "add_noise": "transforms.noise",
    "aggc": "decide",
    "auto": "decide.auto",
    "autoclip": "decide",
    "block_descent": "decide",
    "centralize": "transforms.centralize",
    "chain": "decide",
    "clip_by_global_norm": "decide",
    "clip_by_group_norm": "decide",
    "clip_by_growth": "decide",
    "clip_by_norm": "decide",
    "clip_by_rms": "decide",
    "clip_by_value": "transforms.value",
    "clip_update_rms": "decide",
    "coordinate_descent": "transforms.descent",
    "decay": "decide",
    "decoupled_l2": "constrain.shrink",
    "dgc": "transforms.dgc",
    "error_feedback": "transforms.feedback",
    "fp8": "transforms.fp8",
    "gradient_stabilizer": "decide",
    "lamb": "constrain.update",
    "larc": "constrain.trust",
    "lars": "constrain.trust",
    "limit_update_ratio": "constrain.update",
    "masked": "decide",
    "max_norm_weights": "constrain.weights",
    "normalize": "decide",
    "onebit": "transforms.sign",
    "percentile_clip": "decide",
    "proximal_l1": "constrain.shrink",
    "prune_hard": "transforms.pruning",
    "prune_soft": "transforms.pruning",
    "prune_topk": "transforms.pruning",
    "qsgd": "transforms.quantize",
    "sign": "transforms.sign",
    "skip_nonfinite": "decide",
    "smooth_normalize": "decide",
    "soft_clip": "transforms.soft",
    "soft_clip_norm": "decide",
    "spam": "transforms.spam",
    "spectral_bound": "constrain.weights",
    "spectral_clip": "transforms.spectral",
    "terngrad": "transforms.quantize",
    "weight_relative_clip": "decide",
    "zclip": "decide",
}
_HOME_OF_SCHEDULES = {"cosine": "decide", "exponential": "decide", "inverse_time": "decide"}


class _Factories(Mapping[str, Callable[..., Any]]):
    """Functions by public name, each imported when it is first asked for: those that rewrite elements import torch."""

    def __init__(self, home: dict[str, str]) -> None:
        self._home = home

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return getattr(import_module(f"steadygrad.{self._home[name]}"), name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._home)

    def __len__(self) -> int:
        return len(self._home)


POLICIES: Mapping[str, Callable[..., Policy]] = _Factories(_HOME)
"""Every policy by its public name, sorted."""

SCHEDULES: Mapping[str, Callable[..., Any]] = _Factories(_HOME_OF_SCHEDULES)
"""What may stand where a policy takes a schedule."""

_CONSTANTS = {"inf": math.inf, "nan": math.nan}  # nan, so that the policy itself can say why it is refused
_FACTORIES = _Factories(_HOME | _HOME_OF_SCHEDULES)
_LITERALS = (bool, int, float, str, type(None))
_LONGEST = 3000
_DEEPEST = 30


def parse_policy(text: str) -> Policy:
    """The policy that a text describes; ``parse_policy(policy.text).text == policy.text``.

    Args:
        text: calls of policies by name, with literals, tuples and other calls as arguments. A bare name is a call without
            arguments.

    Returns:
        The policy.

    Raises:
        ArgumentError: unknown name, other syntax, wrong arguments, or a number that the policy refuses.
        ArgumentTypeError: no text, or an argument of the wrong kind.

    Example:
        >>> parse_policy("chain(skip_nonfinite, masked(clip_by_norm(1), '*.weight'))")
        chain(skip_nonfinite(), masked(clip_by_norm(1.0), '*.weight'))
        >>> try:
        ...     parse_policy("clip_by_norn(1.0)")
        ... except ArgumentError as error:
        ...     print(error.slug, "|", error.message[:64])
        policy-unknown | unknown policy 'clip_by_norn': did you mean 'clip_by_norm'? poli
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentTypeError(f"expected the text of a policy, got {type(text).__name__}", slug="policy-syntax")
    policy = _value(_tree(text.strip()), 0)
    if not isinstance(policy, Policy):
        raise _syntax_error(f"expected a policy, got {show(policy)}; policies are {', '.join(POLICIES)}")
    return policy


def _tree(text: str) -> ast.expr:
    if not text:
        raise _syntax_error("expected a policy, got an empty text; for example 'clip_by_global_norm(1.0)'")
    if len(text) > _LONGEST:
        raise _syntax_error(f"expected at most {_LONGEST} characters, got {len(text)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on odd Python, such as "\d" in a string
            return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        where = f" at character {error.offset}" if error.offset else ""
        raise _syntax_error(f"cannot read the policy {_short(text)}{where}: {error.msg}{_function_hint(text)}") from None
    except (ValueError, MemoryError, RecursionError) as error:
        raise _syntax_error(f"cannot read the policy {_short(text)}: {error or 'too deeply nested'}") from None


def _value(node: ast.expr, depth: int) -> Any:
    """The value of a node: a policy, a schedule, a literal or a tuple of these."""
    if depth > _DEEPEST:
        raise _syntax_error(f"expected at most {_DEEPEST} levels of nesting")
    if isinstance(node, ast.Constant) and isinstance(node.value, _LITERALS):
        return node.value
    if isinstance(node, ast.Name):
        return _CONSTANTS[node.id] if node.id in _CONSTANTS else _call(node.id, [], {})
    if isinstance(node, (ast.Tuple, ast.List)):
        return tuple(_value(element, depth + 1) for element in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        return _signed(node, depth)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        args = [_value(arg, depth + 1) for arg in node.args]
        return _call(node.func.id, args, _keywords(node, depth))
    raise _forbidden(node)


def _signed(node: ast.UnaryOp, depth: int) -> float:
    value = _value(node.operand, depth + 1)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _syntax_error(f"expected a number after the sign at character {node.col_offset + 1}")
    return -value if isinstance(node.op, ast.USub) else value


def _keywords(node: ast.Call, depth: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise _forbidden(keyword.value)
        if keyword.arg in values:
            raise _syntax_error(f"the argument {keyword.arg!r} is given twice")
        values[keyword.arg] = _value(keyword.value, depth + 1)
    return values


def _call(name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if name not in _FACTORIES:
        raise _unknown(name)
    factory = _FACTORIES[name]
    signature = inspect.signature(factory)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ArgumentError(
            f"`{name}`: {error}; expected `{_shown_signature(name, signature)}`", slug="policy-arguments"
        ) from None
    return factory(*args, **kwargs)


def _shown_signature(name: str, signature: inspect.Signature) -> str:
    """Names and defaults, without the annotations."""
    parameters = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return f"{name}{inspect.Signature(parameters)}"


def _unknown(name: str) -> ArgumentError:
    close = difflib.get_close_matches(name, _FACTORIES, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return ArgumentError(f"unknown policy {name!r}: {hint}policies are {', '.join(POLICIES)}", slug="policy-unknown")


def _forbidden(node: ast.expr) -> ArgumentError:
    kind = type(node).__name__
    message = f"a policy is made of names, calls, numbers, strings and tuples; got {kind} at character {node.col_offset + 1}"
    return _syntax_error(message)


def _function_hint(text: str) -> str:
    """Where the text shows a Python function, as the text of such a policy does."""
    return "; a policy that holds a Python function has no text that can be parsed back" if "<" in text else ""


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _syntax_error(message: str) -> ArgumentError:
    return ArgumentError(message, slug="policy-syntax")
