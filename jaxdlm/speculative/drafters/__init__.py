"""Where draft tokens come from, one file per kind."""
