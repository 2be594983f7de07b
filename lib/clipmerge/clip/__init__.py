"""The vision-language model and its data; knows nothing of experiments."""
