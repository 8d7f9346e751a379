"""The commands of `rau`: thin, and light to import; what they need comes in when they run."""
