"""The one error of tests.cluster."""


class ClusterError(Exception):
    """A part could not be built, started or asked; the message says which, why, and what to do."""
