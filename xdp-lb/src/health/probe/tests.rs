//! Probers against servers on loopback.
