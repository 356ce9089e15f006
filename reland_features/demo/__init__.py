"""Built-in demo tables: a catalogue of real films and a simulator of users with known tastes."""
