"""What needs both sides, the builder and the reader: append, merge, copy, recode, repair, views."""
