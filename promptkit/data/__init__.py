"""From what is on disk to batches: layouts (folders -> Dataset), splits (who trains, who tests), loading (pixels)."""
