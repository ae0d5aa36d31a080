"""Images from disk to pixels: find them (`discover`), decode them by one policy (`decode`), scale and crop (`preprocess`)."""
