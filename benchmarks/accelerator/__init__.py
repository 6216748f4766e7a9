"""`python -m benchmarks.accelerator`: one command that measures whatever device is there."""
