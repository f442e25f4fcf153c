"""A stand-in for an OpenAI-compatible server: fast, deterministic, and as badly behaved as a test wants."""
