"""Published data sets, fetched once and laid out as CoOp's DATASETS.md has them."""
