"""The two kinds of error that a user can meet, each reported in one line.

``UsageError``: the command or a setting is wrong; the command line exits with 2.
``Failure``: the request was right but could not be carried out (a broken file, a full disk); exit 1.
Both are ``ValueError`` so that library callers need only one ``except``.
"""


class UsageError(ValueError):
    """A wrong flag, name or setting: names the value and what to use instead."""


class Failure(ValueError):
    """Something outside the user's command is broken: names it and the remedy."""
