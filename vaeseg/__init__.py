"""vaeseg: distributed tumour segmentation over hospital CT archives. Research software."""

__version__ = "0.1.0"
