"""Transfer: an encoder fine-tuned to a classifier, the classifier's folder, and predicting with it."""
