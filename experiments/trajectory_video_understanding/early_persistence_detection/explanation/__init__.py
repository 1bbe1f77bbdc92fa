"""Why a track was decided as it was: evidence that was really tried first, words that are checked against it second."""
