"""Benchmarks and statistics."""
