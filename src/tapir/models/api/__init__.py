"""Calls to language models over HTTP."""
