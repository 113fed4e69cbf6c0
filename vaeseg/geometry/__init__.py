"""Pure numpy geometry: stacking slices, affines, orientation and resampling. Arrays in, arrays out."""
