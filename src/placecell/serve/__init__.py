"""Maps behind HTTP: a picture in, a pose or a reason out; and the page that shows it."""
