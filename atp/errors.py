"""Errors that a person can act on."""


class AtpError(Exception):
    """Bad input, or a stage that cannot continue: one line that names the file or key, what was found, what is allowed.

    The command line and the workflow's scripts print the message alone, and exit with code 1.
    """


class Interrupted(AtpError):
    """A stage that was stopped from outside: its finished parts are kept, and a rerun resumes there."""


class PluginError(AtpError):
    """An error in a plug-in or an installed extension: one line that names the file and, if known, the line."""
