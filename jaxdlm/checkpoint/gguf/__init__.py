"""GGUF files, presented as what a folder of the Hub is: configuration, tokenizer and tensors by name."""
