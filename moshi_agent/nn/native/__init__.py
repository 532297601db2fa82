"""The step in C, compiled for this very processor when a model is first packed on a machine.

    library.py         compiles, keeps and loads the C
    products.py        packed weights
    transformers.py    the next steps of a transformer
    convolutions.py    the next steps of SEANet, and of the resampling around Mimi's transformers
    quantizers.py      codes of latents, and back
    depth.py           all codebooks of a step

PyTorch's operators have too much to do before they begin: a step of a small model is two thousand of
them, and half of it is spent between them. Here a step is ten calls. Without a C compiler, or where the
numbers disagree, PyTorch's operators serve instead.
"""
