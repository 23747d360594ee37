"""Orders and their lines. An order is drafted, placed and shipped, or cancelled."""
