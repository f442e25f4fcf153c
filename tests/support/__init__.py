"""Fakes, servers and builders shared by the tests."""
