"""Made-up annotations and features, with moments planted in them."""
