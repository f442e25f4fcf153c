"""Models in the roles of a run: behind servers, on this machine, or read from files."""
