"""What runs learned and answered, to look at."""
