"""Summary and report page of a run; exports and reviews of what it made."""
