"""Find and fetch files that are neither shipped nor computed."""
