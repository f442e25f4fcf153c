"""Exports of a run: students, data sets, and files for other trainers."""
