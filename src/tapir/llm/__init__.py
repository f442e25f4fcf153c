"""Everything that speaks to a language model over HTTP, and the roles it fills."""
