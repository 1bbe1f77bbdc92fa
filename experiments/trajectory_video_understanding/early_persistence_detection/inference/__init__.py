"""Deciding tracks on a user's own video."""
