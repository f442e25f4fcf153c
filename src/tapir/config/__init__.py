"""Recipe: the typed tree of all settings, read from TOML and checked."""
