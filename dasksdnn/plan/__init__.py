"""Plans: what is sent, what is held, in which order. Pure: nothing here reads, computes or sends."""
