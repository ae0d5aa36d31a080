"""Who runs the forward pass: torch is the definition."""
