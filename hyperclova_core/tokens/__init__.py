"""From documents to token ids. Read: special_tokens, pretokens, bpe, tokenizer, encoder; mixture, tokenizer_training, serialize."""
