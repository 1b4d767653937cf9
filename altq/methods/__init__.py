"""The table of methods; assembly of bank and selection into a checkpoint."""
