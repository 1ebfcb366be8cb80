"""Sweeps: from one run to the map of budget and key count against detection power."""
