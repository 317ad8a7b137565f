"""HSM-rooted envelope encryption of Kubernetes Secrets, with crypto-shredding."""

__version__ = "0.1.0"
