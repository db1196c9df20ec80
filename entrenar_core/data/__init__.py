"""From files to typed columns, examples and packed batches."""
