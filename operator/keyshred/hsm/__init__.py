"""The only way to the token. Callers use `service` (the async facade) and `interface` (value types and protocol)."""
