"""Measures to a page and figures."""
