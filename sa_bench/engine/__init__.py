"""From a command line to one result.json a cell."""
