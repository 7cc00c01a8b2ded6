"""Examples to forests, free of torch: reading, checking, rendering, packing."""
