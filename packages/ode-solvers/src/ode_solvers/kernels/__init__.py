"""Stage arithmetic: one signature, several implementations with equal results."""
