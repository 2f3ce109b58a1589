"""From labelled images to tars: scan, split, plan, encode, write."""
