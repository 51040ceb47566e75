"""What of a text is compared: comparison_form, normalise, hashing; boilerplate that is cut before."""
