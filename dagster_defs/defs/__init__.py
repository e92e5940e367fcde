"""Where `dg scaffold defs` puts further definitions."""
