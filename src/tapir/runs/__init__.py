"""Runs of recipes, evaluations and studies."""
