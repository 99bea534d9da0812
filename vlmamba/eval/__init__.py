"""The ten benchmarks of the paper's Table 1: prompts, parsers, metrics and the files around them."""
