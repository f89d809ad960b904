"""Custom data sets: any features of videos and queries, with annotation lines about them."""
