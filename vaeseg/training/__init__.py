"""Training loops and slice data sets; no Ray."""
