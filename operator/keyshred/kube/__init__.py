"""The API server, as plain dicts: a raw client, watched collections, and the KeyRecords. It decides nothing."""
