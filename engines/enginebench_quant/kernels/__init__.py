"""Kernels by tensor type and CPU level: `table.py` compiles them, `reference.py` says what they mean.

`simd.py` is the vocabulary of vector instructions, `formats.py` what each type's blocks mean in it,
`matmul.py` the products built from both, `crew.py` the threads that run them.
"""
