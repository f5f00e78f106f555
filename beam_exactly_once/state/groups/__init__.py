"""Keys that have a timeout: a function of their values and state, called when the one comes or the other does."""
