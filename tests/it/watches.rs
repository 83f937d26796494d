//! Watches never gap (G5).
