"""What a store is: bytes and JSON to values and back. Opens nothing; the specification is docs/reference/format.md."""
