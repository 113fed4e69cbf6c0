"""The only importer of ray."""
