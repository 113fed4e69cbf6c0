"""Rules that an operator writes: which readable series a scan segments. Pure; `vaeseg.io.rules` opens the files."""
