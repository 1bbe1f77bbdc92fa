"""The causal tokenizer, the streaming classifier, the stopping rule and what they cost."""
