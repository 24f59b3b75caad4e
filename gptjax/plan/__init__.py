"""Planning a run before a chip is rented: memory, time and money on any target."""
