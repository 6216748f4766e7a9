"""Exports a trained model to a folder, StableHLO, ONNX or PyTorch; converts timm's weights."""
