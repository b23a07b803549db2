"""The scheduler and what it knows: pure state machines that never wait, read a clock or do I/O."""
