"""What a failed migration shows. The text of an exception may hold values of rows, so it is shown only when marked."""


class MigrationError(Exception):
    """Raised by the author of a migration to stop a deployment with a message that CloudFormation and the log show.

    The message is shown as it is, so it must not contain a value of a row: count rows, do not quote them. The text of
    every other exception is replaced by its type and the line of the migration.
    """


class Redacted(Exception):
    """Stands for an exception in the log: the name of its type and its traceback, without its text."""


def redacted(error: BaseException) -> Redacted:
    """Return `error` without its message, its notes and the exceptions that caused it.

    The traceback stays. It shows lines of code, not values.
    """
    return Redacted(type(error).__name__).with_traceback(error.__traceback__)
