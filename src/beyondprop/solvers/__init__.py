"""What is fitted rather than stepped: closed forms and convex problems."""
