"""Pure numpy evaluation: overlap, lesions and the slice-wise protocol of the paper."""
