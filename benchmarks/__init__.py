"""Measurements: every figure of docs/performance.md comes from here, by way of benchmarks/results/*.json."""
