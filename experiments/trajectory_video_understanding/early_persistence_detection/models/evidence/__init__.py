"""P(persistent) from evidence alone: a model of microseconds, and how it adapts to a camera. NumPy, no pixels."""
