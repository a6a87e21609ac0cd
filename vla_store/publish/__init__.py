"""How a store gets to where it lies: its objects, each verified, then the root that commits them. For builder and manage alike."""
