"""The exception that stands for a user's mistake, and the one of a run that was told to end."""


class UserError(ValueError):
    """A mistake of the user: its message names the place and the remedy.

    The command line prints the message alone and exits with code 2.
    """


class WriteError(UserError):
    """A file or directory cannot be written, because the disk is full, say; whatever else is written will fail too."""


class Terminated(Exception):
    """A run was told to end (SIGTERM), has saved a checkpoint, and can go on.

    The command line exits with code 75, by which a job script can tell that it is to be started again.
    """


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def require(condition: bool, message: str) -> None:
    """Raise a UserError with this message unless the condition holds."""
    if not condition:
        raise UserError(message)
