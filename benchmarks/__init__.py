"""Benchmarks: each prints one JSON line with ratios against a plain reference."""
