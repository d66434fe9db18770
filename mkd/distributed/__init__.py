"""Where a process stands among others, and how a step runs on its device."""
