"""Published methods, one file each: a chain of rules, or a drafter with a target, that registers itself by name."""
