"""Maps of networks as ONNX files that run without torch, in eight bits where that costs nothing."""
