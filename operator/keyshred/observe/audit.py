"""Audit lines: one JSON object a line on stdout, apart from the log on stderr."""

import sys
from collections.abc import Mapping
from typing import Any

import orjson

from keyshred.times import utc_now


def write(event: str, **fields: str | int | None) -> None:
    """Writes one line and flushes it, so that it stands before the answer that it tells of is sent."""
    line = {"audit": event, "time": utc_now().isoformat(timespec="milliseconds").replace("+00:00", "Z")}
    sys.stdout.buffer.write(orjson.dumps(line | {k: v for k, v in fields.items() if v not in (None, "")}) + b"\n")
    sys.stdout.buffer.flush()


def key_change(record: Mapping[str, Any]) -> None:
    """The line of a KeyRecord's newest transition, once it is written."""
    transition = record["status"]["transitions"][-1]
    write(
        "key",
        action=transition["action"],
        keyID=record["metadata"]["name"],
        rootKey=(record.get("spec") or {}).get("rootKeyName"),
        state=record["status"].get("state"),
        by=transition.get("by"),
        seq=transition.get("seq"),
        detail=transition.get("detail"),
    )
