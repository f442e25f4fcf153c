"""The load carried by a Ray cluster: answers, tags and judgements made by its workers."""
