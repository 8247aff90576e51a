"""GGUF files, as llama.cpp has them, read into Hugging Face directories."""
