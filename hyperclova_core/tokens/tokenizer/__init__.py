"""The tokenizer, its files, and how Hugging Face's libraries read it: tokenizer, huggingface, tokenization_hyperclova."""
