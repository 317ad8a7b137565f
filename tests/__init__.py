"""Tests, and the real parts that they and the demo run on (tests.cluster)."""
