"""Result rows: their schema, reading, packing and bundles. No torch."""
