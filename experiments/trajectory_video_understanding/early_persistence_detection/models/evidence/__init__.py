"""What is known of a track without its pixels, read as P(persistent), and how that adapts to a camera."""
