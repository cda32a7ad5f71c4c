//! What hostile clients get: their connection's end, and nobody else notices.
