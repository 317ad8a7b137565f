"""Audit lines."""

import json
from datetime import datetime, timedelta

import pytest

from keyshred.observe import audit


def test_one_json_object_a_line(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    audit.write("unseal", status=403, verdict="No\nnewline", pod=None, podUID="", count=0)
    out = capsysbinary.readouterr().out
    assert out.endswith(b"}\n")
    assert out.count(b"\n") == 1
    line = json.loads(out)
    time = datetime.fromisoformat(line.pop("time"))
    assert time.utcoffset() == timedelta(0)
    assert line == {"audit": "unseal", "status": 403, "verdict": "No\nnewline", "count": 0}
