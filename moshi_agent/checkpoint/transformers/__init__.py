"""The format of Hugging Face Transformers: files, configuration, names of tensors, and how it is written."""
