"""From files and drawn pictures to batches of token ids, labels and pixels."""
