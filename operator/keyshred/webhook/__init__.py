"""Admission and unsealing: one aiohttp server in several worker processes. No kopf here."""
