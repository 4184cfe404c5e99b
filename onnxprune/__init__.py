"""onnxprune: prune ONNX models as ONNX graphs, and prove the result."""
