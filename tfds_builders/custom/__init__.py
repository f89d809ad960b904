"""One's own data: any features of videos and queries, and annotation lines about them."""
