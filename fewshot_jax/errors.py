"""The one exception that stands for a user's mistake."""


class UserError(ValueError):
    """A mistake of the user: its message names the place and the remedy.

    The command line prints the message alone and exits with code 2.
    """


def require(condition: bool, message: str) -> None:
    """Raise a UserError with this message unless the condition holds."""
    if not condition:
        raise UserError(message)
