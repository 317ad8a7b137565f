"""What keyshred says of itself: logs and audit lines. Never a value, a key, a PIN or a token."""
