"""Shipped recipes and taxonomies."""
