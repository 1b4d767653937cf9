"""Tables and figures, and the paper's published numbers as data."""
