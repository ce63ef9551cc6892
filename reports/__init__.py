"""Reports: result rows in, text out. Nothing here imports torch."""
