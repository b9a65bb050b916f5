"""The single-stream runner for quantized GGUF models: one request at a time.

`engine.py` is the TokenEngine, `model.py` computes logits, `program.py` writes the forward pass
down as tasks for the threads of `kernels/crew.py`. This package imports nothing: its plugin is
loaded whenever `bench` starts.
"""
