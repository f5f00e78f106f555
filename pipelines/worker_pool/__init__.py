"""Workers for runners that start them on other machines: forked from a process that has imported what they need."""
