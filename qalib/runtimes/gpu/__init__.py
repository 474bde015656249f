"""GPU runtimes: panels of kept blocks multiplied by a Triton kernel, and forward passes in CUDA graphs."""
