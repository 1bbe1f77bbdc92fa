"""Early persistence detection: decide within a few frames whether a track is real."""
