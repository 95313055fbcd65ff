//! What one core owns: routing, the engine, work that waits for others, upkeep. Pure: no I/O, no clock.
