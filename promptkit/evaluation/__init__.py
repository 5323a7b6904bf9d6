"""How good a learner is, domain by domain."""
