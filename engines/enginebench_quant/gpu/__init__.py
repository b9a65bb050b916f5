"""The quant engine on one GPU: packed weights in device memory, and a token as one CUDA graph."""
