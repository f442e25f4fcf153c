"""Values and arithmetic of the method: pure, typed, free of files, models and networks."""
