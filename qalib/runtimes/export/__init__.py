"""Export to ONNX: a plain graph, a folder for the hub, and a graph that is pruned while it runs."""
