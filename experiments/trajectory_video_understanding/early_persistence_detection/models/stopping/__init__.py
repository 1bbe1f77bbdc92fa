"""Thresholds for the stopping rule of compute_gating: fitted, certified, and put to the test."""
