"""Near-duplicates. The files in the order they run: stage → boilerplate → sketches (forms, normalise, signatures, winnow,
decontaminate) → together, or distributed (candidates → verify → components → clusters → containment → decisions) → report; for
nights past, index, increment and history."""
