"""A checkpoint as Hugging Face's GPT-2: export, model_card."""
