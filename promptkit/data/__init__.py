"""From what is on disk to batches: layouts (folders -> Dataset), selection (who trains, who tests), loading (pixels)."""
