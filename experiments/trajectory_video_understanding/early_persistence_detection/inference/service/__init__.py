"""Live cameras over a network: what is decided is stored before it is told, and delivered to whoever asked for it."""
