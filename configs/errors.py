"""The two errors a user can cause; the command line turns both into one clear line."""


class UserError(Exception):
    """A mistake that the user can mend; its text says what, where, and what to do next."""


class ConfigError(UserError):
    """A setting, a file that a setting names, or an image of the data set is wrong."""


class CacheError(UserError):
    """The feature cache is missing, incomplete, damaged or stale."""
