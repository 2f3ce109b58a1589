"""Where the ranks run: this process, or Ray."""
