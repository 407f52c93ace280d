//! Continuations, cut at every place.
