"""The command line: one file a command; `app` parses, calls and prints."""
