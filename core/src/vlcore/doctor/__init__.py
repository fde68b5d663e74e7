"""Looking at data before a training: what is wrong with rows, what they will take, and how a model sees them."""
