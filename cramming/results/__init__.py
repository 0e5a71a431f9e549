"""Runs and what is known of them: plans, sweeps, the store, published numbers."""
