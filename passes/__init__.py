"""One rewriting pass a file; imported as onnxprune.passes."""
