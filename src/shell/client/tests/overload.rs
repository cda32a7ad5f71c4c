//! Full rings and clients that do not read.
