"""Where a text is cut, before BPE: rules (plain), character_classes, utf8, analyser and viterbi (morphemes), pieces (compiled)."""
