"""Per-sample solves of small fields in one launch: all steps of a sample in one program."""
