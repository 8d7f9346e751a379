"""Images with geometry: reading, orientation, windowing, label maps and their resampling."""
