"""Makes what the browser downloads: Pyodide, the node's wheel, ONNX Runtime Web, the models."""
