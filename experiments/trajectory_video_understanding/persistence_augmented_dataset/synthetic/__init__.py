"""Scenes that are drawn, and the exact posterior of what they show."""
