"""The pages that commands, benchmarks and the explorer write: one file a page, of the parts in `plots.report`."""
