"""Synthetic thorax CT with tumours."""
