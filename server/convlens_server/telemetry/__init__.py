"""Seeing inside the server: metrics, traces and the access log, as layers around every call."""
