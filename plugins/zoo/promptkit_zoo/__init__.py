"""Published learners for promptkit. Each module stands alone: it imports promptkit's public modules and no other of these."""
