"""Models in the GGUF format of llama.cpp: config, dequantised tensors and tokenizer of one file."""
