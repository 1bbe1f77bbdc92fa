"""What is known of a track without its pixels, as numbers that a model reads."""
