"""The envelope: the bytes that stand in a sealed Secret (docs/envelope-format.md). Pure, frozen once released."""
