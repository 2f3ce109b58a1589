"""From tars to batches: order, read, decode, augment, batches."""
