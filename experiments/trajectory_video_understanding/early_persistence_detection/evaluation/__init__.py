"""Evaluation, pictures and the report."""
