"""The paper's experiments and open questions, one command each: what `flashvtg study` runs."""
