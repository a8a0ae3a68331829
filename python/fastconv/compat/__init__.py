"""Command lines of older tools, translated to fastconv's own."""
