"""Errors that are nobody's failure: what a signal, another thread or a timeout raises in the middle of our code.

A task queue's time limit, the timeouts of gevent and Ctrl-C come at any call, and are for the caller to see. Only
errors of sockets (``OSError``), of the database (``DATABASE_ERRORS``) and those that this package raises on purpose say
that a cache or a database fails. Bytes from outside and code of the host's raise anything; ``is_repeated`` has the
answer for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

__all__ = ["DATABASE_ERRORS", "is_repeated"]

# Not SQLAlchemyError: what comes while SQLAlchemy prepares a statement it wraps in a StatementError.
DATABASE_ERRORS: Final = (sa.exc.DBAPIError, sa.exc.InvalidRequestError, sa.exc.TimeoutError)
"""The errors of a database that cannot be reached, or refuses."""


def is_repeated(error: Exception, attempt: Callable[[], object]) -> bool:
    """True if a second attempt fails in the same way: the error is of what is attempted. An exception that is sent from
    elsewhere comes once.
    """
    try:
        attempt()
    except Exception as again:
        # The second attempt is made deeper in the stack, and may come to its end where the first found another error.
        return type(again) is type(error) or isinstance(again, RecursionError)
    return False
