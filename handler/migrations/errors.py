"""Exceptions of migrations. Their texts may contain values of rows, so only the text of a MigrationError is shown."""


class MigrationError(Exception):
    """Raise this in a migration to stop a deployment with a message that CloudFormation and the log show.

    The message must not contain a value of a row: count rows, do not quote them. Other exceptions of a migration are
    shown by their type and the line of the migration, without their text.
    """


class Redacted(Exception):
    """Replaces an exception in the log: the name of its type and its traceback, without its text."""


def redacted(error: BaseException) -> Redacted:
    """Return a Redacted with the traceback of `error`, which shows lines of code and no values."""
    return Redacted(type(error).__name__).with_traceback(error.__traceback__)
