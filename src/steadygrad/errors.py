"""Every error and warning that steadygrad raises, each with a stable slug.

::

    SteadygradError
    ├── ArgumentError            (ValueError)    an argument has a value that cannot work
    ├── ArgumentTypeError        (TypeError)     an argument is of the wrong kind
    ├── UnsupportedError         (RuntimeError)  a combination that steadygrad refuses rather than approximates
    ├── NonFiniteGradientError   (RuntimeError)  a NaN or Inf gradient, where the caller asked for an error
    └── RunError                 (OSError)       a recorded run or a log that cannot be read or written

    SteadygradWarning            (UserWarning)   training goes on; the reader should know

A slug (``policy-unknown``, ``run-future-schema`` …) names the problem for good: it may be searched for, and it
never changes its meaning. ``str(error)`` ends with it in square brackets. This module imports nothing.
"""


class SteadygradError(Exception):
    """Base of every error raised on purpose.

    Args:
        message: what was expected, what came, and what to do.
        slug: the stable name of the problem.
    """

    def __init__(self, message: str, *, slug: str) -> None:
        super().__init__(f"{message} [{slug}]")
        self.message = message
        self.slug = slug


class ArgumentError(SteadygradError, ValueError):
    """An argument has a value that cannot work."""


class ArgumentTypeError(SteadygradError, TypeError):
    """An argument is of the wrong kind."""


class UnsupportedError(SteadygradError, RuntimeError):
    """A combination that steadygrad refuses, because a near one would be wrong."""


class NonFiniteGradientError(SteadygradError, RuntimeError):
    """A gradient holds NaN or Inf and the caller asked for an error."""


class RunError(SteadygradError, OSError):
    """A recorded run, or a log to import, cannot be read or written."""


class SteadygradWarning(UserWarning):
    """Something the reader should know; training goes on.

    Args:
        message: what happened and what to do.
        slug: the stable name of the problem.
    """

    def __init__(self, message: str, *, slug: str) -> None:
        super().__init__(f"{message} [{slug}]")
        self.slug = slug
