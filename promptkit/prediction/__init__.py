"""New pictures: what a finished run takes them for."""
