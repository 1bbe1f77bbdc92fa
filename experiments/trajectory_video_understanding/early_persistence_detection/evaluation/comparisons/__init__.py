"""What is put beside the model: other extractors, window models, other tokens, clips without a cue."""
