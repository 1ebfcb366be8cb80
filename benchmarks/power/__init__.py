"""The parts of benchmarks/power.py."""
