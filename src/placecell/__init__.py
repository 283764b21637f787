"""placecell: know where a camera was, from one picture."""
