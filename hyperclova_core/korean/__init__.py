"""What is known about Korean text: Hangul and jamo, normalisation, morphemes, personal-data detectors."""
