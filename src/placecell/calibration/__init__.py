"""What a map's answers to pictures it had not seen say of all its answers: errors predicted, radii, confidence."""
