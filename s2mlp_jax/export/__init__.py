"""Takes a trained model out: a folder, StableHLO, ONNX, PyTorch; and from and to timm's weights."""
