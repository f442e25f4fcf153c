"""The run directory: layout, manifest, lock, tables, and what makes a run resumable."""
