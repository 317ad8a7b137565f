"""What every token must do for keyshred, asked of each token in tokens.toml; no mocks (docs/hsm.md)."""
