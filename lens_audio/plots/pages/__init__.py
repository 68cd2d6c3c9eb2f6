"""The pages of commands, benchmarks and the explorer: one file a page, of the parts in `plots.report`."""
