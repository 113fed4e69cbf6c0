"""From slices to masks, as fast as the device allows; no Ray."""
