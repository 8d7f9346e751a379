"""The vision-language model: what it is asked, what it answers, and boxes in one unit."""
