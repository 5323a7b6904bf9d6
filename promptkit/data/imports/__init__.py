"""Data sets of other libraries, turned into folders of pictures once."""
