"""Convoy: from labelled images to a registered model, in five stages."""
