"""CPU kernels by tensor type and CPU level; `table.py` compiles them, `reference.py` is their twin.

`simd.py` is the vocabulary of vector instructions, `formats.py` what each type's blocks mean in it,
`matmul.py` the products built from both, `crew.py` the threads that run them.
"""
