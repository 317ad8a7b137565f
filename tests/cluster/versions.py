"""The pinned versions of the real parts. To bump one: change its line, then `make lock`."""

from typing import Final

GO: Final = "1.26"
"""Oldest Go that builds them."""
KUBERNETES: Final = "v1.36.3"
ETCD: Final = "v3.6.5"
