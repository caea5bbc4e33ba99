"""What can go wrong on the user's side; the command line turns each of these into one line and exit status 2."""


class UserError(ValueError):
    """Something the user gave cannot be used. The message is one line: what is wrong, and what to do about it."""


class DataError(UserError):
    """A data set is missing, truncated, corrupt or out of range."""


class RunError(UserError):
    """A run folder cannot be used: another run's, locked, unreadable, or on a full or read-only disk."""


class UnsupportedNetworkError(UserError):
    """The rule cannot train this network; the message names the layer."""


class NonFiniteError(UserError):
    """A loss or an activation is NaN or infinite; the message names the block where it was seen first."""


class DeviceError(UserError):
    """A device is lost, busy, does not answer in time or reads nonsense; asking again later may help."""
