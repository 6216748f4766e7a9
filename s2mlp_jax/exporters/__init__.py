"""Writes a trained model for others to run: StableHLO, ONNX, PyTorch."""
