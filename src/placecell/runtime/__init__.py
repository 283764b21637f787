"""Exported maps as localizers, without torch: one ONNX file, and what its numbers mean."""
