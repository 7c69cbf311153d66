"""Seeing inside the server: metrics, traces and the access log, as middleware around every call."""
