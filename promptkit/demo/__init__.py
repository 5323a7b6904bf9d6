"""Pictures and a small CLIP to try promptkit on, offline."""
