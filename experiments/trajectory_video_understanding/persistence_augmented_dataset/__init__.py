"""Synthetic and real track clips with a known best answer."""
