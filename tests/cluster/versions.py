"""The pinned versions of the real parts. To bump one: change its line, then `make lock`."""

from typing import Final

GO: Final = "1.26"
"""Oldest Go that builds them."""
KUBERNETES: Final = "v1.36.3"
ETCD: Final = "v3.6.5"
COREDNS: Final = "v1.12.4"
PROMETHEUS: Final = "v0.313.0"
KIND: Final = "v0.33.0"
HELM: Final = "v3.21.4"
ARGOCD_ENGINE: Final = "v0.0.0-20260914071520-c9c369efcc5b"
"""The last commit before its release that asks for a newer Go; the module has no tags of its own."""
FLUX_SSA: Final = "v0.77.0"
CERT_MANAGER: Final = "v1.19.1"
CERT_MANAGER_SUM: Final = "h1:Txh8L/nLWTDcb7ZnXuXbTe15BxQnLbLirXmbNk0fGgY="
PROMETHEUS_OPERATOR: Final = "v0.85.0"
PROMETHEUS_OPERATOR_SUM: Final = "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="
