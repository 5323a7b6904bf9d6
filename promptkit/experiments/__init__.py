"""The comparisons that papers report: many learners, data sets and seeds, and the tables of what came out."""
