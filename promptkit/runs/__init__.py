"""What a run leaves on disk, read and written: its files, its lock, its status."""
