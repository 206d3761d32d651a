"""What a user did wrong, said once, clearly: the value, what is valid, the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake that the user can mend. The command line prints it without a traceback and exits with code 2."""


class Diverged(ArithmeticError):
    """A training or a solve left the finite numbers: the cell becomes a row with status `diverged`."""


class BudgetExceeded(RuntimeError):
    """A solver asked for more network calls than it was granted: the cell becomes a row with status `timeout`."""


class Skip(Exception):
    """A cell that makes no sense here (the reason says why): it becomes a row with status `skipped`."""


class Unavailable(Skip):
    """A cell that lacks something which may still come, such as weights: skipped now, tried again by the next run."""


@contextmanager
def blamed(who: str, lacking: str) -> Iterator[None]:
    """What a user's own code raises becomes an error that says whose it is; `lacking` follows `who` where a method is missing."""
    try:
        yield
    except UserError:
        raise
    except NotImplementedError:
        raise UserError(f"{who} {lacking}") from None
    except Exception as error:
        raise UserError(f"{who} raises {type(error).__name__}: {error}") from error


def unknown(what: str, value: object, valid: Iterable[object], *, remedy: str = "") -> UserError:
    """The error for a name that is not among the valid ones: says the nearest match and lists what is valid."""
    return UserError(f"unknown {what} '{value}'.{suggestion(value, valid)}{' ' + remedy if remedy else ''}")


def suggestion(value: object, valid: Iterable[object]) -> str:
    """The nearest match and the list of what is valid, as sentences that follow one."""
    names = sorted(str(name) for name in valid)
    return f"{guess(value, names)} Valid: {', '.join(names)}." if names else ""


def guess(value: object, names: Iterable[str]) -> str:
    """The nearest match as a sentence that follows one; nothing where none is near."""
    nearest = difflib.get_close_matches(str(value), sorted(names), n=1, cutoff=0.5)
    return f" Did you mean '{nearest[0]}'?" if nearest else ""
