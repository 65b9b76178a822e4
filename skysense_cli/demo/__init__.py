"""A simulated landscape with known truth, and the comparison of what the chain makes of it."""
