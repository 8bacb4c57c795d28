"""The tests mirror the package: tests/<area>/test_<file>.py."""
