"""From a run directory to a summary and one self-contained page."""
