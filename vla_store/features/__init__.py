"""A store's fields as features of frames: what leaves for another format, and what a recipe gives in that format's place, say the
same by the same rules. Writes nothing."""
