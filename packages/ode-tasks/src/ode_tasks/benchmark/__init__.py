"""Every task against every registered solver: plan, executor, store and the `benchmark` command."""
