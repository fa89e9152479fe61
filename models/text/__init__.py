"""Text to token ids: the tokenizer and the segmentation of long documents."""
