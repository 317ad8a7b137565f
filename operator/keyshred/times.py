"""The clock, and times as they are written."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The clock that activation, expiry and records go by."""
    return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """UTC in whole seconds, as in the API server's own timestamps."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def stamp(moment: datetime) -> str:
    """RFC 3339, UTC, microseconds, 'Z': the ledger's."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
