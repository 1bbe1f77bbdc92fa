"""Labelled clips out of real video: what became of each track."""
