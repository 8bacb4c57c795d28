"""Published benchmarks, read from the user's own files, one suite per file."""
