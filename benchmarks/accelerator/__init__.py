"""`python -m benchmarks.accelerator`: one command that measures the device of this machine."""
