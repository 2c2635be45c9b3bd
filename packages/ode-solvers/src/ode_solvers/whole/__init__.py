"""Per-sample solves of small fields in one launch: every step of a sample, in one Triton program."""
