"""From result rows to boards, comparisons, tables and their sentences. No torch."""
