"""A finished run as a file that needs no promptkit."""
