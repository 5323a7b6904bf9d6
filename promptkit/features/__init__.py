"""What a frozen image tower saw of an image: computed once, kept by image, read ever after."""
